"""Weights that are not finite: found where a checkpoint is opened and before one is written, and told from bad images.

Models and estimators are looked at where they are opened (tmt.model.weights).
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from tmt.errors import StateError, TMTError, TrainingError, reason_of

NOT_FINITE = re.compile(r"\b(nan|inf|infinite|not finite|invalid numeric entries|without overflow)\b")
"""What errors of operators, optimisers and the matcher say of numbers that they cannot take."""


def not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """The first tensor with values that are not finite, and how many it has; None where there is none."""
    for name, tensor in weights.items():
        wrong = int((~torch.isfinite(tensor)).sum())
        if wrong:
            return f"{name} ({wrong} of {tensor.numel()} values)"
    return None


def check_weights(path: str | Path, weights: Mapping[str, Tensor], mend: str) -> None:
    """Raises StateError where a checkpoint's weights are not finite: all that is trained from them would not be."""
    if found := not_finite(weights):
        raise StateError(f"{path}: weights must be finite, got {found} that are not; {mend}")


@contextmanager
def explain_overflow(name: str, module: nn.Module, step: int, where: str, kept: str) -> Iterator[None]:
    """Raises TrainingError, which says what is at fault, where a step fails because of numbers that are not finite.

    where: which images the step is about; kept: what remains of the stage, from a semicolon on, or nothing.
    """
    try:
        yield
    except TMTError:
        raise
    except (RuntimeError, ValueError) as error:
        if not_finite(module.state_dict()) is None and not NOT_FINITE.search(str(error).lower()):
            raise
        raise diverged(name, module, step, f"an operation failed ({reason_of(error)})", where, kept) from error


def diverged(name: str, module: nn.Module, step: int, what: str, where: str, kept: str) -> TrainingError:
    """The error of a step with numbers that are not finite. Its weights were finite when they were opened."""
    if found := not_finite(module.state_dict()):
        cause = f"step {step - 1} has made weights that are not finite, the first {found}"
        return TrainingError(f"{name}: {what} at step {step}: {cause}; lower the learning rate or the clip{kept}")
    return TrainingError(
        f"{name}: {what} at step {step} ({where}; all weights are finite, at most {_largest(module)}); lower the "
        f"learning rate or the clip where weights are that large, or look at these images{kept}"
    )


def _largest(module: nn.Module) -> str:
    """The largest magnitude among the weights, and whose it is."""
    size, name = max((float(weight.detach().abs().max()), name) for name, weight in module.named_parameters())
    return f"{size:.1e} in {name}"


def check_trained(name: str, module: nn.Module, step: int, kept: str) -> None:
    """Raises TrainingError where training has made weights that are not finite, before they are saved or evaluated."""
    if found := not_finite(module.state_dict()):
        raise TrainingError(
            f"{name}: weights must be finite, got {found} that are not after step {step}; lower the learning rate or "
            f"the clip{kept}"
        )
