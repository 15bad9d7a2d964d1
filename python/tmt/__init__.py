"""The Transferable Mask Transformer: cross-domain semantic segmentation with region-adaptive transferability.

The model's names are loaded when first used, so that the command lines answer `--help` without torch. Using one of
them, or importing `tmt.model`, registers the model with transformers' Auto classes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tmt.model import TMTConfig, TMTForSemanticSegmentation, TMTOutput

__all__ = ["TMTConfig", "TMTForSemanticSegmentation", "TMTOutput"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("tmt.model"), name)
    raise AttributeError(f"module 'tmt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
