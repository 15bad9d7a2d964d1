"""Makes synthetic street scenes in the layouts of five datasets, and checks datasets on disk."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from tmt.cli.command import command
from tmt.errors import DataError
from tmt.runtime.processors import processors
from tmt.settings import DatasetName

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from tmt.data.check import Report
    from tmt.data.spec import DatasetSpec

SHOWN = 200  # faults printed; the report holds all
OPACITY = 0.55  # of the labels in the contact sheet
DATASETS = get_args(DatasetName)
DOMAINS = tuple(name for name in DATASETS if name != "folders")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m tmt.data", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    _make_options(commands)
    _check_options(commands)
    _picture_options(commands)
    return top


def _make_options(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "make",
        help="draw synthetic scenes",
        description="Draws synthetic street scenes in the layout and label encoding of a dataset.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument("--dataset", required=True, help=f"layout and look: {', '.join(DOMAINS)}")
    command.add_argument("--root", required=True, help="folder to make; new or empty")
    command.add_argument("--train", type=int, default=400, help="number of training images")
    command.add_argument("--val", type=int, default=60, help="number of validation images")
    command.add_argument("--size", type=int, nargs=2, default=(96, 192), metavar=("H", "W"), help="pixels")
    command.add_argument("--seed", type=int, default=0, help="other seeds give other scenes")
    command.add_argument(
        "--distance", type=float, default=1.0, help="1: the domain's full look; 0: that which all domains share"
    )


def _check_options(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "check",
        help="check a dataset on disk",
        description="Pairs images with labels, reads every file, and says on one line each what is wrong. Writes "
        "report.json and contact.png. Exit code: 0 clean, 1 faults, 2 wrong command.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument("dataset", help=", ".join(DATASETS))
    command.add_argument("root", help="the dataset's folder")
    command.add_argument("--splits", default="", help="such as train,val; none: all that should have labels")
    command.add_argument("--mapping", default="strict", help="Mapillary: strict or broad")
    command.add_argument("--version", default=None, help="Mapillary: v1.2 or v2.0; none: the newest there")
    command.add_argument("--partial", action="store_true", help="allow other numbers of images than were published")
    command.add_argument("--workers", type=int, default=default_workers(), help="processes that read files")
    command.add_argument("--out", default=None, help="folder for report and contact sheet; none: runs/check/DATASET")


def _picture_options(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "picture",
        help="show the synthetic domains",
        description="Draws a few scenes of every synthetic domain into one PNG.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument("--out", required=True, help="file to write")
    command.add_argument("--scenes", type=int, default=4, help="of each domain")
    command.add_argument("--first", type=int, default=8, help="number of the first one")
    command.add_argument("--distance", type=float, default=1.0, help="as for make")


def default_workers() -> int:
    """As many processes as there are processors, up to 16; none where there is one."""
    return 0 if processors() == 1 else min(16, processors())


def check(values: argparse.Namespace) -> int:
    """Runs `check`; returns 0, or 1 where something is wrong."""
    from tmt.runtime.lock import only_one

    out = Path(values.out or f"runs/check/{values.dataset}")
    with only_one(out):
        return check_into(out, values)


def check_into(out: Path, values: argparse.Namespace) -> int:
    """Runs `check`, and writes to the folder `out`; returns what `check` does."""
    from tmt.data.check import check_dataset
    from tmt.data.spec import DatasetSpec
    from tmt.visualize.contact_sheet import contact_sheet

    splits = [name for name in values.splits.split(",") if name]
    spec = DatasetSpec(values.dataset, values.root, values.mapping, values.version)
    report = check_dataset(
        spec.name, spec.root, splits, workers=values.workers, partial=values.partial, mapping=spec.mapping,
        version=spec.version,
    )  # fmt: skip
    print_report(report)
    try:
        out.mkdir(parents=True, exist_ok=True)
        report.write(out / "report.json")
        if rows := [row for split in report.splits for row in labelled_rows(spec, split)]:
            contact_sheet(rows, 320, 160).save(out / "contact.png")
    except OSError as error:
        raise DataError(f"check: out {out} must be a writable folder, got {error.strerror}; choose another") from error
    verdict = f"{len(report.faults)} faults" if report.faults else "clean"
    print(f"{report.dataset} {report.root}: {verdict}, {len(report.warnings)} warnings; see {out}")
    return 1 if report.faults else 0


def labelled_rows(spec: "DatasetSpec", split: str, each: int = 8) -> "list[tuple[str, list[np.ndarray]]]":
    """Up to `each` images of a split, two a row, each beside itself under its labels' colours; none where it cannot be
    read."""
    from tmt.data.check import some_samples
    from tmt.visualize.drawing import overlay

    try:
        listing = spec.list(split)
    except DataError:
        return []
    rows, samples = [], list(some_samples(listing, each))
    for i in range(0, len(samples), 2):
        shown = samples[i : i + 2]
        pictures = [(s.image, overlay(s.image, s.label, listing.label_set, OPACITY)) for s in shown]
        rows.append((f"{split}: {', '.join(s.name for s in shown)}", [one for two in pictures for one in two]))
    return rows


def domains_picture(scenes: int, first: int, distance: float) -> "Image.Image":
    """Scenes from number `first` on of every synthetic domain, a row each, in few enough colours to be a small file."""
    from PIL import Image

    from tmt.synthetic import render
    from tmt.visualize.contact_sheet import contact_sheet

    rows = []
    for name in DOMAINS:
        shown = [render(name, 0, first + i, (96, 192), distance)[0] for i in range(scenes)]
        rows.append((f"{name} (synthetic)", shown))
    return contact_sheet(rows, 192, 96).quantize(255, dither=Image.Dither.NONE)


def print_report(report: "Report") -> None:
    """Classes of each split as a table, then warnings and faults, one a line."""
    from tmt.data.labels import IGNORE

    for split, content in report.splits.items():
        total = max(1, sum(content.classes.values()) + content.ignored)
        sizes = ", ".join(f"{count} of {size}" for size, count in list(content.sizes.items())[:3])
        print(f"{split}: {content.images} images ({sizes}{', …' if len(content.sizes) > 3 else ''})")
        for name, count in [*content.classes.items(), (f"ignored ({IGNORE})", content.ignored)]:
            share = count / total
            print(f"  {name:<16} {100 * share:7.3f} %  {'#' * round(50 * share)}")
    for kind, lines in (("warning", report.warnings), ("fault", report.faults)):
        for line in lines[:SHOWN]:
            print(f"{kind}: {line}")
        if len(lines) > SHOWN:
            print(f"{kind}: and {len(lines) - SHOWN} more in report.json")


def picture(values: argparse.Namespace) -> int:
    """Runs `picture`."""
    if values.scenes < 1 or values.first < 0:
        raise DataError(f"picture: scenes must be at least 1 and first 0, got {values.scenes} and {values.first}")
    try:
        domains_picture(values.scenes, values.first, values.distance).save(values.out, optimize=True)
    except (OSError, ValueError) as error:
        raise DataError(f"picture: out {values.out} must be a writable PNG file, got {error}") from error
    print(values.out)
    return 0


def run(values: argparse.Namespace) -> int:
    """Runs a parsed command; returns the exit code."""
    match values.command:
        case "check":
            return check(values)
        case "picture":
            return picture(values)
    return make(values)


def make(values: argparse.Namespace) -> int:
    """Runs `make`."""
    from tmt.synthetic import make as draw

    print(draw(**{name: value for name, value in vars(values).items() if name != "command"}))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0, 1 where a check found faults, 2 after one line on what is wrong."""
    return command(lambda given: run(parser().parse_args(given)), arguments, "draw at a smaller --size")
