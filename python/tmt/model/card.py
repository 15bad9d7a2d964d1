"""The model card: README.md beside a saved model, as model hubs show it, from what its configuration holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from tmt.runtime.files import write_text
from tmt.runtime.markdown import markdown_table

from .configuration import TMTConfig

MARK = "<!-- written with the model and again whenever it is saved, until this line is removed -->"
PLACE = "FOLDER_OR_HUB_ID"
HEAD = """---
library_name: transformers
pipeline_tag: image-segmentation
tags: [semantic-segmentation, domain-adaptation, mask2former, tmt]
---
"""
RULES = {
    "uncertain": "the paper's: a query attends where its own mask is unsure",
    "foreground": "Mask2Former's: a query attends inside its own mask",
    "none": "none: a query attends everywhere",
}
LIMITS = """- The scores are of the validation images named above and of no others. Another place, camera, season
  or hour is another domain: measure there before the map is relied on.
- Every pixel gets one of the classes above; what is none of them is called something nevertheless.
- `confidence` is not calibrated. T says how like the source a region looks, or what its kind says; it is no
  probability of an error.
- Trained weights carry the terms of the images that they were trained on, which this card does not know."""
USE = """```python
import tmt

model = tmt.load("{place}")
found = tmt.segment(model, "street.jpg")
found.prediction, found.transferability  # class ids (H, W), T (H, W) where the model has one
```"""


class Trained(TypedDict, total=False):
    """What is known of a model's training, JSON values, kept in its configuration as `trained`."""

    method: str  # its name in tables
    data: str  # what the images are of
    images: int
    steps: int
    batch_size: int
    seed: int
    revision: str  # of the program
    score: dict[str, Any]  # of the last weights, on the validation images: miou, images, iou by class


def model_card(config: TMTConfig, place: str = PLACE) -> str:
    """The card of a model with this configuration; `place` is what its example loads."""
    trained: Mapping[str, Any] = config.trained or {}
    parts = [
        HEAD + f"\n# Semantic segmentation of {config.num_labels} classes: {trained.get('method', 'TMT')}",
        "Mask2Former with the operators of the Transferable Mask Transformer (`transferable-mask-transformer`).",
        "## Model\n\n" + markdown_table(("what", "value"), _model_rows(config)),
        "## Training\n\n" + _training(trained),
        "## Scores\n\n" + _scores(trained.get("score")),
        "## Limits\n\n" + LIMITS,
        "## Use\n\n" + USE.format(place=place),
        MARK,
    ]
    return "\n\n".join(parts) + "\n"


def save_card(folder: str | Path, config: TMTConfig, place: str = PLACE) -> None:
    """Write the card beside a saved model, unless somebody has written one of their own there."""
    file = Path(folder) / "README.md"
    if not file.is_file() or MARK in file.read_text(encoding="utf-8"):
        write_text(file, model_card(config, place))


def _model_rows(config: TMTConfig) -> list[tuple[str, ...]]:
    settings = config.settings
    names = ", ".join(str(name) for _, name in sorted((config.id2label or {}).items()))
    judged = f"kind {settings.estimator_kind}, excludes {settings.transfer_fraction:g} of the positions of a map"
    return [
        ("classes", names),
        ("backbone", str(getattr(config.backbone_config, "model_type", "unknown"))),
        ("queries", str(config.num_queries)),
        ("height of images", f"{config.image_height} pixels" if config.image_height else "their own"),
        ("mask rule", RULES.get(settings.mask_rule, settings.mask_rule)),
        ("transferability", judged if settings.transferability else "not used"),
    ]


def _training(trained: Mapping[str, Any]) -> str:
    if not trained:
        return "Nothing is known of it."
    names = ("method", "data", "images", "steps", "batch_size", "seed", "revision")
    return markdown_table(
        ("what", "value"), [(name.replace("_", " "), str(trained[name])) for name in names if name in trained]
    )


def _scores(score: Mapping[str, Any] | None) -> str:
    if not score:
        return "Not measured."
    rows = [(name, _percent(value)) for name, value in score.get("iou", {}).items()]
    table = markdown_table(("class", "IoU, %"), [*rows, ("mean", _percent(score["miou"]))])
    return f"On {score['images']} validation images, the last weights:\n\n{table}"


def _percent(value: float | None) -> str:
    return "no such pixel" if value is None else f"{value:.2f}"
