"""The ways to adapt a source model to the target domain, each one small object over the same training loop.

A method says how the model is configured, which parts train, whether it needs the transferability estimator, and
whether a first stage maximises a transferability metric. All take as many steps of as many images, on the same
target images; joint training takes half of each batch from the source.
"""

from tmt.methods.full import FullFineTuning, SourceTraining
from tmt.methods.joint import JointTraining
from tmt.methods.leep import LEEPFineTuning
from tmt.methods.linear import LinearProbing
from tmt.methods.method import Method
from tmt.methods.otce import OTCEFineTuning
from tmt.methods.tmt import TransferableMaskTransformer
from tmt.methods.transfer_metric import TransferMetric, metric_steps
from tmt.settings import Stage

__all__ = [
    "FullFineTuning",
    "JointTraining",
    "LEEPFineTuning",
    "LinearProbing",
    "Method",
    "OTCEFineTuning",
    "SourceTraining",
    "TransferMetric",
    "TransferableMaskTransformer",
    "method_of",
    "metric_steps",
]

METHODS = (
    SourceTraining,
    LinearProbing,
    FullFineTuning,
    JointTraining,
    LEEPFineTuning,
    OTCEFineTuning,
    TransferableMaskTransformer,
)


def method_of(stage: Stage) -> Method:
    """The method of a stage that trains a segmentation model."""
    for method in METHODS:
        if method.name == stage:
            return method()
    raise ValueError(f"method_of: stage must train a segmentation model, got {stage!r}")
