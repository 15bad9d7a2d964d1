"""The Transferable Mask Transformer: cross-domain semantic segmentation with region-adaptive transferability.

What a program of one's own needs is here by name and loaded when first used, so that `import tmt` is quick and imports
no torch. In a few lines (`tmt.api`), as the commands do it:

>>> model = tmt.adapt("mine/day", "mine/night", out="runs/mine")
>>> found = tmt.segment(model, "street.jpg")  # .prediction, .confidence, .transferability

A saved model, or any Mask2Former checkpoint in transformers' format, fine-tuned in a loop of one's own on a
dataset of one's own (`tmt.data.readers.folders` says what it looks like):

    import torch
    import tmt

    train, val = (tmt.open_dataset("folders", "mine", split) for split in ("train", "val"))
    classes = dict(enumerate(train.label_set.names))
    options = {"id2label": classes, "transferability": False, "ignore_mismatched_sizes": True}
    model = tmt.TMTForSemanticSegmentation.from_pretrained("pretrained", **options).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    augment = tmt.Augment(crop=(64, 128))
    for batch in tmt.train_batches(train, augment, batch_size=2, seed=0, steps=3, scaling=model.scaling):
        mask_labels, class_labels = tmt.masks_from_labels(batch["labels"], len(classes))
        more = {"sample_seeds": batch["sample_seeds"], "labelled": batch["labels"] != tmt.IGNORE}
        outputs = model(batch["pixel_values"], mask_labels, class_labels, **more)
        optimizer.zero_grad()
        outputs.loss.backward()
        optimizer.step()
    model.save_pretrained("finetuned")

    model = tmt.TMTForSemanticSegmentation.from_pretrained("finetuned").eval()
    image, label, name = val[0]
    with torch.no_grad():
        outputs = model(tmt.normalise(image, model.scaling)[None])
        prediction = model.semantic_probabilities(outputs, label.shape).argmax(1)[0].numpy()
    labelled = label != tmt.IGNORE
    accuracy = (prediction == label)[labelled].mean()

`transferability=False` is plain Mask2Former; TMT needs an estimator, which `python -m tmt.train` trains. A model of
random weights is `TMTForSemanticSegmentation(TMTConfig(id2label=classes))` after `initialise_from_scratch(model)`.
Using a name of the model, or importing `tmt.model`, registers it with transformers' Auto classes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tmt.api import adapt, load, segment
    from tmt.data import (
        IGNORE,
        Augment,
        Dataset,
        LabelSet,
        Sample,
        colourise,
        eval_batches,
        normalise,
        open_dataset,
        train_batches,
    )
    from tmt.errors import TMTError
    from tmt.model import (
        TMTConfig,
        TMTForSemanticSegmentation,
        TMTOutput,
        initialise_from_scratch,
        masks_from_labels,
    )
    from tmt.settings.version import __version__

_DATA = (
    "IGNORE", "Augment", "Dataset", "LabelSet", "Sample", "colourise", "eval_batches", "normalise", "open_dataset",
    "train_batches",
)  # fmt: skip
_MODEL = ("TMTConfig", "TMTForSemanticSegmentation", "TMTOutput", "initialise_from_scratch", "masks_from_labels")
_API = ("adapt", "load", "segment")
_HOMES = {
    "__version__": "tmt.settings.version",
    "TMTError": "tmt.errors",
    **dict.fromkeys(_API, "tmt.api"),
    **dict.fromkeys(_DATA, "tmt.data"),
    **dict.fromkeys(_MODEL, "tmt.model"),
}

__all__ = [
    "IGNORE",
    "Augment",
    "Dataset",
    "LabelSet",
    "Sample",
    "TMTConfig",
    "TMTError",
    "TMTForSemanticSegmentation",
    "TMTOutput",
    "__version__",
    "adapt",
    "colourise",
    "eval_batches",
    "initialise_from_scratch",
    "load",
    "masks_from_labels",
    "normalise",
    "open_dataset",
    "segment",
    "train_batches",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tmt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
