"""The ways to adapt a source model to the target domain, each one small object.

A method says how the model is configured, which parts train, and whether it needs the transferability estimator.
"""

from tmt.config import Stage
from tmt.methods.full import FullFineTuning, SourceTraining
from tmt.methods.method import Method
from tmt.methods.tmt import TransferableMaskTransformer

__all__ = ["FullFineTuning", "Method", "SourceTraining", "TransferableMaskTransformer", "method_of"]


def method_of(stage: Stage) -> Method:
    """The method of a stage that trains a segmentation model."""
    match stage:
        case "source":
            return SourceTraining()
        case "full":
            return FullFineTuning()
        case "tmt":
            return TransferableMaskTransformer()
    raise ValueError(f"method_of: stage must train a segmentation model, got {stage!r}")
