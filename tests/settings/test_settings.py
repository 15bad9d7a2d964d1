"""The command line: presets, overrides, help, and one line for each mistake."""

import dataclasses
import re
from pathlib import Path

import pytest

from tmt.cli import evaluate, export, label, predict
from tmt.errors import ConfigError
from tmt.settings import Config, EvaluateConfig, ExportConfig, LabelConfig, PredictConfig
from tmt.settings import arguments as settings


def options_of(kind: type, prefix: str = "") -> list[str]:
    names = []
    for item in dataclasses.fields(kind):
        default = item.default_factory if item.default_factory is not dataclasses.MISSING else None
        nested = dataclasses.is_dataclass(default)
        names += options_of(default, f"{prefix}{item.name}.") if nested else [f"--{prefix}{item.name}"]
    return names


def help_of(entry, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        entry(["--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "entry, kind",
    [
        (settings.parse, Config),
        (evaluate.main, EvaluateConfig),
        (predict.main, PredictConfig),
        (export.main, ExportConfig),
        (label.main, LabelConfig),
    ],
)
def test_help_explains_every_field(entry, kind: type, capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(entry, capsys)
    details = shown[re.search("^(positional arguments|options):", shown, re.MULTILINE).start() :]
    for option in options_of(kind):
        pattern = rf"^  (?:--)?{re.escape(option[2:])}\b(.*?)(?=^  -|^\S|\Z)"
        found = re.search(pattern, details, re.DOTALL | re.MULTILINE)
        assert found, f"{option} is not in --help"
        words = re.sub(r"\((type|required).*", "", " ".join(found[1].split()))
        assert len(words.split()) >= 3, f"{option} has no explanation: {found[0]!r}"


@pytest.mark.parametrize("name", ["demo", "paper", "foreground"])
def test_presets_survive_a_round_trip(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings.parse(["--config", name, "--target.lr", "3e-4", "--print_config"])
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    printed = settings.parse(["--config", str(tmp_path / "printed.yaml")])
    assert printed == settings.parse([f"--config={name}", "--target.lr=3e-4"])
    (tmp_path / "stored.yaml").write_text(settings.to_yaml(printed))
    assert settings.from_yaml(tmp_path / "stored.yaml") == printed
    assert printed.target.lr == 3e-4


def test_presets_differ_where_they_say() -> None:
    paper, foreground = (settings.parse(["--config", name]) for name in ("paper", "foreground"))
    assert settings.differences(paper, foreground) == ["model.mask_rule: uncertain -> foreground"]
    assert foreground == dataclasses.replace(Config(), out="runs/foreground")


def test_files_inherit(tmp_path: Path) -> None:
    """From a preset or a file beside them; what is nearer wins, and the command line most of all."""
    (tmp_path / "base.yaml").write_text("inherits: demo\nseed: 3\ntarget: {lr: 2e-4, steps: 7}\n")
    (tmp_path / "mine.yaml").write_text("inherits: base.yaml\ntarget: {steps: 9}\n")
    found = settings.parse(["--config", str(tmp_path / "mine.yaml"), "--target.clip", "0.5"])
    demo = settings.parse(["--config", "demo"])
    target = dataclasses.replace(demo.target, lr=2e-4, steps=9, clip=0.5)
    assert found == dataclasses.replace(demo, seed=3, target=target)
    assert settings.parse([f"--config={tmp_path / 'mine.yaml'}", "--target.clip=0.5"]) == found
    (tmp_path / "lost.yaml").write_text("inherits: nowhere.yaml\n")
    with pytest.raises(ConfigError, match="nowhere"):
        settings.parse(["--config", str(tmp_path / "lost.yaml")])


def test_shorthands() -> None:
    given = settings.parse(["--stages", "source,tmt", "--resume", "--out", "x", "--evaluation.window", "4,6"])
    assert given.stages == ("source", "tmt") and given.resume and given.out == "x"
    assert given.evaluation.window == (4, 6) and not given.evaluation.flip
    argv = "m --flip a b --scales=0.5,1 --out o --save labels --overwrite --window null"
    command = settings.parse_command("python -m tmt.predict", argv.split(), PredictConfig)
    assert command.paths == ("a", "b") and command.flip and command.overwrite and command.window is None
    assert command.scales == (0.5, 1.0) and command.save == ("labels",)


def test_values_need_no_parser_to_be_read() -> None:
    flat = settings.flatten(dataclasses.asdict(settings.parse([])))
    plain = {type(part) for value in flat.values() for part in (value if isinstance(value, tuple) else (value,))}
    assert plain <= {bool, int, float, str, type(None)}


BAD = {
    "--config nowhere": "nowhere",
    "--target.lrr 3": "did you mean --target.lr",
    "--model.cell 0": "model.cell",
    "--model.mask_threshold 1.5": "model.mask_threshold",
    "--model.transfer_fraction -0.1": "model.transfer_fraction",
    "--model.mask_rule background": "background",
    "--source.steps many": "many",
    "--source.steps 0": "source.steps",
    "--source.lr -1": "source.lr",
    "--stages source,refine": "refine",
    "--stages source,source": "once",
    "--stages []": "choose from source, estimator, linear, full, joint, leep, otce, tmt",
    "--data.source_root here": "both or neither",
    "--data.source cityscapes": "different domains",
    "--data.source kitti": "data.source",
    "--data.source folders": "a dataset of your own",
    "--data.mapillary_version v1.2": "is for the dataset mapillary, got v1.2 for gtav and cityscapes",
    "--data.mapillary_version v3": "mapillary_version",
    "--data.mapillary_mapping broad": "data.mapillary_mapping",
    "--data.mapillary_mapping loose": "mapillary_mapping",
    "--target.images 0": "target.images",
    "--target.images 101": "target.images: must be at most the 100 training images of data.synthetic_target, got 101",
    "--augment.rare_class_temperature 0": "rare_class_temperature",
    "--evaluation.window 4": "evaluation.window",
    "--evaluation.window 0,4": "evaluation.window",
    "--evaluation.stride 4,4": "without evaluation.window",
    "--evaluation.window 8,8 --evaluation.stride 8,9": "stride: must be at most the window (8, 8), got (8, 9)",
    "--evaluation.scales []": "evaluation.scales",
    "--evaluation.scales 1,-1": "evaluation.scales",
    "--metric.fraction 1.5": "metric.fraction",
    "--metric.otce_epsilon 0": "metric.otce_epsilon",
    "--metric.leep_pixels 0": "metric.leep_pixels",
    "--metric.leep_momentum 2": "metric.leep_momentum",
    "--model.transfer_at_inference maybe": "model.transfer_at_inference",
    "--augment.scale [2.0,0.5]": "augment.scale",
    "--augment.crop 512": "augment.crop",
    "--model.hidden 60 --model.attention_heads 7": "model.hidden",
    "--seed -1": "seed",
}


@pytest.mark.parametrize("line, named", BAD.items())
def test_mistakes_are_one_line(line: str, named: str) -> None:
    with pytest.raises(ConfigError) as error:
        settings.parse(line.split())
    assert named in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text, named", [("model:\n  cel: 3\n", "cel"), ("model: [", "YAML"), ("seed: x\n", "seed")])
def test_mistakes_in_files_are_one_line(text: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        settings.parse(["--config", str(tmp_path / "mine.yaml")])
    assert named in str(error.value) and "\n" not in str(error.value)
