"""AdamW over named groups of parameters."""

from collections.abc import Sequence

import torch
from torch.optim import Optimizer

from tmt.model.groups import Group
from tmt.runtime.markdown import markdown_table


def adamw(groups: Sequence[Group]) -> Optimizer:
    """AdamW over named parameter groups, each with its own `lr` and `weight_decay`; fused: one pass a tensor."""
    optimizer = torch.optim.AdamW([dict(group) for group in groups], fused=True)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def groups_table(optimizer: Optimizer) -> str:
    """The groups as a table, one row each: name, tensors, parameters, learning rate, weight decay."""
    rows = [
        (
            str(group["name"]),
            f"{len(group['params'])}",
            f"{sum(parameter.numel() for parameter in group['params']):,}",
            f"{group['initial_lr']:.2e}",
            f"{group['weight_decay']:g}",
        )
        for group in optimizer.param_groups
    ]
    return markdown_table(("group", "tensors", "parameters", "lr", "weight decay"), rows)
