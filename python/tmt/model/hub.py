"""Models by name: a folder as it is, or a hub id, fetched into the local cache."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from tmt.errors import ConfigError

from .card import save_card

MESSAGE = "Model, image processor and card"
DESCRIPTION = ["*.json"]
"""Configuration, image processor and the index of weights in parts."""
WEIGHTS = (["*.safetensors"], ["pytorch_model*.bin"])
"""In the order in which they are preferred."""


def is_hub_id(name: str | Path) -> bool:
    """Whether a name has the form of a hub id, `owner/model`, and is no folder here."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(name))) and not Path(name).exists()


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
    if not is_hub_id(name):
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


def push(model: Any, repo_id: str, *, private: bool | None = None, token: str | None = None, **upload: Any) -> str:
    """Save a model of transformers and upload its folder; the address of the commit. See its `push_to_hub`."""
    hub = HfApi(token=token)
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        found = hub.create_repo(repo_id, private=private, exist_ok=True).repo_id
        save_card(folder, model.config, place=found)
        return str(hub.upload_folder(repo_id=found, folder_path=folder, **{"commit_message": MESSAGE, **upload}))
