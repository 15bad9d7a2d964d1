"""The segmentation model. Importing this package registers it with transformers' Auto classes.

The way of the data, file by file:
    pixel.py          image -> mask features and three coarser maps
    acte.py           mask features -> regions (ACTE)
    evidence.py       regions and predictions -> what is known of each region
    estimator.py      regions -> how target-like, uncertain or wrong each is
    tma.py            queries, features, masks and T -> attention (TMA)
    decoder.py        the stack of layers
    matcher.py        predictions and labels -> which query answers for which mask
    criterion.py      predictions and labels -> loss, at the points of point_sampling.py
    semantic.py       class and mask logits of queries -> class scores of pixels
    tmt.py            all of it, composed; output.py: what comes back
Beside the way: configuration.py, init.py (random weights), loading.py, factory.py (models for a dataset's classes),
groups.py (for the optimiser), processor.py and pipeline.py (transformers'),
padding.py (batches of several sizes), class_weights.py.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageSegmentation,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # from the top it may want torchvision
from transformers.models.auto.modeling_auto import MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES

from .configuration import TMTConfig
from .criterion import masks_from_labels
from .efficientnet_lite import register as register_efficientnet_lite
from .init import initialise_from_scratch
from .loading import load_model
from .output import TMTOutput, present
from .pipeline import register
from .processor import TMTImageProcessor, image_processor
from .semantic import Queries, semantic_scores
from .tmt import TMTForSemanticSegmentation


def _register() -> None:
    """Make AutoModel.from_pretrained and transformers.pipeline find the model by its config.json."""
    AutoConfig.register(TMTConfig.model_type, TMTConfig, exist_ok=True)
    AutoImageProcessor.register(TMTConfig, slow_image_processor_class=TMTImageProcessor, exist_ok=True)
    for auto in (
        AutoModel,
        AutoModelForImageSegmentation,
        AutoModelForSemanticSegmentation,
        AutoModelForUniversalSegmentation,
    ):
        auto.register(TMTConfig, TMTForSemanticSegmentation, exist_ok=True)
    # The pipeline checks names of models against this table, which `register` does not reach, and logs an error.
    known: dict[str, str] = MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES  # type: ignore[assignment]  # names it has
    known[TMTConfig.model_type] = TMTForSemanticSegmentation.__name__
    register()


_register()
register_efficientnet_lite()

__all__ = [
    "Queries",
    "TMTConfig",
    "TMTForSemanticSegmentation",
    "TMTImageProcessor",
    "TMTOutput",
    "image_processor",
    "initialise_from_scratch",
    "load_model",
    "masks_from_labels",
    "present",
    "semantic_scores",
]
