"""Write a saved model as one file for other programs, compared with the model before it is kept.

    python -m tmt.export runs/demo/tmt/model --format onnx --out street.onnx --size 96,192
    python -m tmt.export MODEL --format torch --out street.pt2 --size 512,1024 --dynamic batch
    python -m tmt.export MODEL --out street.onnx --size 512,1024 --dynamic size

The file takes pixel_values, (B, 3, H, W) float32, normalised, and gives class_queries_logits (B, Q, K + 1),
masks_queries_logits (B, Q, H / 4, W / 4) and prediction (B, H, W) int64, the labels of tmt.predict. Mean and deviation
of the pixels and the names of the classes are in its metadata.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tmt.cli.command import command
from tmt.errors import ConfigError
from tmt.settings import ExportConfig
from tmt.settings.arguments import parse_command

if TYPE_CHECKING:
    from tmt.inference.exporting import Shape
    from tmt.model import TMTForSemanticSegmentation

ENDINGS = {"torch": ".pt2", "onnx": ".onnx"}
NEEDED = {"torch": (), "onnx": ("onnx", "onnxscript", "onnxruntime")}
"""Packages that a format takes, of the extra `export`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0 done, 2 a mistake named on one line, 128 + n stopped by signal n."""
    return command(
        lambda given: export(parse_command("python -m tmt.export", given, ExportConfig)), argv, "use a smaller --size"
    )


def export(config: ExportConfig) -> None:
    """Write the file, unless it differs from the model. Raises tmt.errors.TMTError."""
    out = Path(config.out)
    _check(config, out)
    from tmt.inference.exporting import Shape
    from tmt.model.factory import freeze, open_named, transfer_switch

    model = open_named(config.model, transfer_switch(config.transferability))
    freeze(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    share = _write(config, out, model, Shape.of(config))
    print(f"{out}: {share:.2%} of the pixels have the model's label, {out.stat().st_size / 1e6:.1f} MB")


def _check(config: ExportConfig, out: Path) -> None:
    """Raise ConfigError for what can be said before the model is opened."""
    from tmt.runtime.files import check_writable

    if config.dynamic == "size":
        _check_free(config.size)
    if out.suffix != ENDINGS[config.format]:
        raise ConfigError(f"out: must end with {ENDINGS[config.format]} for --format {config.format}, got {out}")
    if missing := [name for name in NEEDED[config.format] if find_spec(name) is None]:
        raise ConfigError(
            f"format: {config.format} needs the package {', '.join(missing)}, which is not installed; "
            "use pip install 'transferable-mask-transformer[export]', or --format torch"
        )
    if out.is_dir() or (out.exists() and not config.overwrite):
        mend = "choose another --out" if out.is_dir() else "choose another --out, or --overwrite it"
        raise ConfigError(f"out: {out} exists; {mend}")
    check_writable(out.parent)


def _check_free(size: tuple[int, int]) -> None:
    """Raise ConfigError for a size that a file of any size does not take."""
    from tmt.inference.exporting import LARGEST, SMALLEST, STEP

    if any(side % STEP or not SMALLEST <= side <= LARGEST for side in size):
        raise ConfigError(
            f"size: must be multiples of {STEP} from {SMALLEST} to {LARGEST} where it is free, got "
            f"{size[0]} {size[1]}; use others, or leave --dynamic out"
        )


def _write(config: ExportConfig, out: Path, model: "TMTForSemanticSegmentation", shape: "Shape") -> float:
    """Write and check; returns the share of the pixels whose labels are the model's."""
    from tmt.inference import exported, exporting
    from tmt.runtime.files import write_atomically

    torch_format = config.format == "torch"
    save = exporting.save_torch if torch_format else exporting.save_onnx
    run = exported.run_torch if torch_format else exported.run_onnx
    program, facts = exporting.trace(model, shape), exporting.metadata(model, shape)
    shares = []

    def write(partial: Path) -> None:
        save(program, facts, partial)
        shares.append(exported.check(out, run(partial), model, shape, config.images))

    write_atomically(out, write)
    return shares[0]
