"""Joint training: the fair baseline of fine-tuning, which throws the labelled source images away."""

from tmt.methods.full import FullFineTuning


class JointTraining(FullFineTuning):
    """All weights train on from the source model; half of each batch is of the source, half of the target."""

    name = "joint"
    title = "joint training"
    keeps_source = True
