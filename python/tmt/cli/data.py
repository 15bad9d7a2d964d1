"""Draws synthetic street scenes in the layouts of five datasets, and checks datasets on disk.

python -m tmt.data make --dataset gtav --root runs/data/gtav --train 400 --val 50 --size 192,384
python -m tmt.data check cityscapes CITYSCAPES --out runs/check
python -m tmt.data picture --out docs/domains.png
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from tmt.cli.choice import Choice
from tmt.cli.command import command
from tmt.errors import DataError
from tmt.runtime.processors import processors
from tmt.settings import CheckConfig, DrawnName, MakeConfig, PictureConfig, check_mapillary
from tmt.settings.arguments import parse_command

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from tmt.data.check import Report
    from tmt.data.spec import DatasetSpec

PROGRAM = "python -m tmt.data"
COMMANDS = Choice(
    PROGRAM,
    {
        "make": "draw synthetic scenes",
        "check": "check a dataset on disk",
        "picture": "show the synthetic domains",
    },
)
SHOWN = 200  # faults printed; the report holds all
OPACITY = 0.55  # of the labels in the contact sheet


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0; 1 where a check found faults; 2 a mistake named on one line."""
    return command(run, argv, "draw at a smaller --size")


def run(argv: Sequence[str]) -> int:
    """Run one of COMMANDS on its arguments; returns the exit code. Raises tmt.errors.TMTError."""
    name, rest = COMMANDS.of(argv)
    match name:
        case "make":
            return make(parse_command(f"{PROGRAM} make", rest, MakeConfig))
        case "check":
            return check(parse_command(f"{PROGRAM} check", rest, CheckConfig))
        case "picture":
            return picture(parse_command(f"{PROGRAM} picture", rest, PictureConfig))
    return 0


def make(config: MakeConfig) -> int:
    """Draw a domain's scenes. Raises DataError."""
    from dataclasses import asdict

    from tmt.synthetic import make as draw

    print(draw(**asdict(config)))
    return 0


def check(config: CheckConfig) -> int:
    """Check a dataset; returns 0, or 1 where something is wrong. Raises DataError where nothing can be written."""
    from tmt.data.check import check_dataset
    from tmt.data.spec import DatasetSpec
    from tmt.runtime.lock import only_one

    check_mapillary((config.dataset,), config.mapping, config.version)
    out = Path(config.out or f"runs/check/{config.dataset}")
    spec = DatasetSpec(config.dataset, config.root, config.mapping, config.version, config.classes)
    workers = default_workers() if config.workers is None else config.workers
    with only_one(out):
        report = check_dataset(
            spec.name, spec.root, config.splits, workers=workers, partial=config.partial, mapping=spec.mapping,
            version=spec.version, classes=spec.classes, labelled=config.labelled,
        )  # fmt: skip
        print_report(report, config.labelled)
        write_report(report, spec, out, config.labelled)
    verdict = f"{len(report.faults)} faults" if report.faults else "clean"
    print(f"{report.dataset} {report.root}: {verdict}, {len(report.warnings)} warnings; see {out}")
    return 1 if report.faults else 0


def write_report(report: "Report", spec: "DatasetSpec", out: Path, labelled: bool) -> None:
    """Write report.json and contact.png. Raises DataError."""
    from tmt.visualize.contact_sheet import contact_sheet

    try:
        out.mkdir(parents=True, exist_ok=True)
        report.write(out / "report.json")
        if rows := [row for split in report.splits for row in sample_rows(spec, split, labelled)]:
            contact_sheet(rows, 320, 160).save(out / "contact.png")
    except OSError as error:
        raise DataError(f"check: out {out} must be a writable folder, got {error.strerror}; choose another") from error


def default_workers() -> int:
    """As many processes as there are processors, up to 16; none where there is one."""
    return 0 if processors() == 1 else min(16, processors())


def sample_rows(spec: "DatasetSpec", split: str, labelled: bool, each: int = 8) -> "list[tuple[str, list[np.ndarray]]]":
    """Up to `each` images of a split, two a row, each beside itself under its labels' colours, if any; none where it
    cannot be read."""
    from tmt.data.check import some_samples
    from tmt.visualize.drawing import overlay

    try:
        listing = spec.list(split, labelled)
    except DataError:
        return []
    rows, samples = [], list(some_samples(listing, each, labelled))
    for i in range(0, len(samples), 2):
        shown = samples[i : i + 2]
        pictures = []
        for sample in shown:
            pictures.append(sample.image)
            if labelled:
                pictures.append(overlay(sample.image, sample.label, listing.label_set, OPACITY))
        rows.append((f"{split}: {', '.join(s.name for s in shown)}", pictures))
    return rows


def domains_picture(scenes: int, first: int, distance: float) -> "Image.Image":
    """Scenes from number `first` on of every synthetic domain, a row each, in few enough colours to be a small file."""
    from PIL import Image

    from tmt.synthetic import render
    from tmt.visualize.contact_sheet import contact_sheet

    rows = []
    for name in get_args(DrawnName):
        shown = [render(name, 0, first + i, (96, 192), distance)[0] for i in range(scenes)]
        rows.append((f"{name} (synthetic)", shown))
    return contact_sheet(rows, 192, 96).quantize(255, dither=Image.Dither.NONE)


def print_report(report: "Report", labelled: bool) -> None:
    """Classes of each split as a table, if it has labels, then warnings and faults, one a line."""
    from tmt.data.labels import IGNORE

    for split, content in report.splits.items():
        total = max(1, sum(content.classes.values()) + content.ignored)
        sizes = ", ".join(f"{count} of {size}" for size, count in list(content.sizes.items())[:3])
        print(f"{split}: {content.images} images ({sizes}{', …' if len(content.sizes) > 3 else ''})")
        for name, count in [*content.classes.items(), (f"ignored ({IGNORE})", content.ignored)] if labelled else ():
            share = count / total
            print(f"  {name:<16} {100 * share:7.3f} %  {'#' * round(50 * share)}")
    for kind, lines in (("warning", report.warnings), ("fault", report.faults)):
        for line in lines[:SHOWN]:
            print(f"{kind}: {line}")
        if len(lines) > SHOWN:
            print(f"{kind}: and {len(lines) - SHOWN} more in report.json")


def picture(config: PictureConfig) -> int:
    """Draw the domains' picture. Raises DataError where it cannot be written."""
    try:
        domains_picture(config.scenes, config.first, config.distance).save(config.out, optimize=True)
    except (OSError, ValueError) as error:
        raise DataError(f"picture: out {config.out} must be a writable PNG file, got {error}") from error
    print(config.out)
    return 0
