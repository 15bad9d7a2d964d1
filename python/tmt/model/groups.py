"""A model's trainable parameters by learning rate and weight decay, for the optimiser."""

from typing import TypedDict

from torch import nn

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
POSITIONS = ("relative_position_bias_table", "position_embeddings", "level_embed")


class Group(TypedDict):
    """Parameters that learn alike."""

    name: str
    params: list[nn.Parameter]
    lr: float
    weight_decay: float


def parameter_groups(model: nn.Module, lr: float, weight_decay: float, backbone_multiplier: float) -> list[Group]:
    """Trainable parameters as an optimiser's groups; empty ones are left out.

    The backbone learns with `lr` * `backbone_multiplier`; norms, embeddings and relative position tables do not
    decay.
    """
    members: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter, owner in _trainable(model):
        key = (".pixel_level_module.encoder." in f".{name}", _decays(name, owner))
        members.setdefault(key, []).append(parameter)
    return [
        {
            "name": ("backbone" if backbone else "head") + ("" if decays else "_no_decay"),
            "params": parameters,
            "lr": lr * backbone_multiplier if backbone else lr,
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (backbone, decays), parameters in sorted(members.items(), reverse=True, key=lambda item: item[0])
    ]


def _trainable(model: nn.Module):
    """(name, parameter, module that holds it) of every trainable parameter."""
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                yield f"{prefix}.{name}", parameter, module


def _decays(name: str, owner: nn.Module) -> bool:
    return not isinstance(owner, (*NORMS, nn.Embedding)) and not name.endswith(POSITIONS)
