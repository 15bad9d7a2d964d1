"""A model's trainable parameters by learning rate and weight decay, for the optimiser."""

import re
from typing import TypedDict

from torch import nn

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
POSITIONS = ("relative_position_bias_table", "position_embeddings", "level_embed")

BACKBONE = ".pixel_level_module.encoder."
LAYER = re.compile(r"^(.*?\.\d+)\.(?:(\w+\.\d+)\.)?")
"""The first two numbered parts of a parameter's name."""


class Group(TypedDict):
    """Parameters that learn alike."""

    name: str
    params: list[nn.Parameter]
    lr: float
    weight_decay: float


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float, backbone_multiplier: float, layer_decay: float = 1.0
) -> list[Group]:
    """Trainable parameters as an optimiser's groups; empty ones are left out.

    The backbone learns with `lr` * `backbone_multiplier`, times `layer_decay` for each of its layers that lies between
    and the last (BEiT, Bao et al., 2022); norms, embeddings and relative position tables do not decay.
    """
    depths = backbone_depths(model) if layer_decay != 1 else {}
    last = max(depths.values(), default=0)
    members: dict[tuple[bool, int, bool], list[nn.Parameter]] = {}
    for name, parameter, owner in _trainable(model):
        key = (BACKBONE in f".{name}", depths.get(name, 0), _decays(name, owner))
        members.setdefault(key, []).append(parameter)
    return [
        {
            "name": _name(backbone, depth if depths else None, decays),
            "params": parameters,
            "lr": lr * backbone_multiplier * layer_decay ** (last - depth) if backbone else lr,
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (backbone, depth, decays), parameters in sorted(members.items(), reverse=True, key=lambda item: item[0])
    ]


def _name(backbone: bool, depth: int | None, decays: bool) -> str:
    where = "head" if not backbone else "backbone" if depth is None else f"backbone_{depth}"
    return where + ("" if decays else "_no_decay")


def backbone_depths(model: nn.Module) -> dict[str, int]:
    """How deep each backbone parameter lies, by name: 0 before the first numbered layer, then one more each layer.

    A layer is what the first two numbers in a parameter's name tell apart, a stage and a block of it; what has no
    number and comes behind them, such as last norms, is of the last.
    """
    found: dict[str, int] = {}
    layers: dict[tuple[str, ...], int] = {}
    for name, _ in model.named_parameters():
        if BACKBONE not in f".{name}":
            continue
        numbered = LAYER.search(name.split("encoder.", 1)[1])
        if numbered:
            layers.setdefault(numbered.groups(), len(layers) + 1)
        found[name] = layers[numbered.groups()] if numbered else len(layers)
    return found


def _trainable(model: nn.Module):
    """(name, parameter, module that holds it) of every trainable parameter."""
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                yield f"{prefix}.{name}", parameter, module


def _decays(name: str, owner: nn.Module) -> bool:
    return not isinstance(owner, (*NORMS, nn.Embedding)) and not name.endswith(POSITIONS)
