"""Parts of transformers keep layers in lists beside their registry: layers put in their place would never be called."""

from typing import Any

from torch import nn


class Registered:
    """Calls the layer that a module has registered under a name at the time of the call."""

    def __init__(self, owner: nn.Module, name: str):
        self.owner, self.name = owner, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.owner.get_submodule(self.name)(*args, **kwargs)


def call_registered(module: nn.Module) -> None:
    """Make every part of `module` call the layers registered under its lists' names, so that adapters and quantisers
    can replace them."""
    for part in module.modules():
        names = {id(child): name for name, child in part.named_children()}
        for attribute, layers in list(vars(part).items()):
            if isinstance(layers, list) and layers and all(id(layer) in names for layer in layers):
                setattr(part, attribute, [Registered(part, names[id(layer)]) for layer in layers])
