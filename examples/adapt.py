"""Adapt a model from one folder of images to another, then print where it does not transfer.

    python examples/adapt.py DAY NIGHT OUT [SETTING=VALUE ...]

DAY and NIGHT are datasets in the layout `folders` (docs/tutorials/own-dataset.md), OUT is the run's folder; settings
are those of `python -m tmt.train`, such as target.steps=100.
"""

import sys

import tmt


def main(source: str, target: str, out: str, *settings: str) -> None:
    chosen = dict(one.split("=", 1) for one in settings)
    model = tmt.adapt(source, target, out, settings=chosen)
    images = tmt.open_dataset("folders", target, "val")
    for index in range(len(images)):
        sample = images[index]
        found = tmt.segment(model, sample.image)
        right = (found.prediction.numpy() == sample.label)[sample.label != tmt.IGNORE].mean()
        print(f"{sample.name}: {100 * right:.1f} % of the pixels are right, mean T {found.transferability.mean():.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
