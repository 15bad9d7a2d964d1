"""Models by name: a folder as it is, or a hub id, fetched into the local cache."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from tmt.errors import ConfigError

DESCRIPTION = ["*.json"]
"""Configuration, image processor and the index of weights in parts."""
WEIGHTS = (["*.safetensors"], ["pytorch_model*.bin"])
"""In the order in which they are preferred."""


def local_folder(name: str, setting: str, weights: bool = True) -> Path:
    """The folder of a model: `name` itself where it is one, else the local copy of the hub's model of that id.

    Args:
        name: a folder, or a hub id such as "facebook/convnext-tiny-224".
        setting: that gave the name, for messages.
        weights: whether they are wanted, beside the configuration.

    Raises:
        ConfigError: neither a folder nor a model that the hub or its local cache has.
    """
    if Path(name).is_dir():
        return Path(name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ConfigError(f"{setting}: no such folder, got {name}; give the folder of a saved model, or a hub id")
    try:
        folder = Path(snapshot_download(name, allow_patterns=DESCRIPTION))
        for patterns in WEIGHTS if weights else ():
            snapshot_download(name, allow_patterns=DESCRIPTION + patterns)
            if any(file for pattern in patterns for file in folder.glob(pattern)):
                break
        return folder
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise ConfigError(
            f"{setting}: no such folder, and no such id on the hub, got {name}; check its name"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ConfigError(
            f"{setting}: no such folder, and the hub cannot be reached for a model of that id, got {name}; download it "
            "elsewhere and give its folder"
        ) from error
