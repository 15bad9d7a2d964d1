"""What a model says of every image's regions, kept on disk so that a stopped command goes on and another budget is
chosen at once."""

import json
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from tmt.errors import DataError, TMTError
from tmt.inference.prediction import weights_digest
from tmt.labelling.images import ToLabel
from tmt.labelling.place import Place
from tmt.labelling.scores import NEEDS_ESTIMATOR, Seen, regions_of, see
from tmt.model import TMTForSemanticSegmentation
from tmt.model.factory import model_folder
from tmt.runtime.distributed import World
from tmt.runtime.files import write_atomically
from tmt.settings import InferenceConfig, LabelConfig, part_of

OF = "of"
"""Entry of a file's metadata: what its numbers hang on."""


@dataclass(frozen=True)
class Scoring:
    """A model, how it is applied, and where what it says is kept."""

    model: TMTForSemanticSegmentation
    inference: InferenceConfig
    cell: int | None
    judged: bool
    """Whether T is wanted."""
    mark: str
    """Of the model, the estimator and the settings."""
    place: Place

    @classmethod
    def of(cls, config: LabelConfig, model: TMTForSemanticSegmentation, place: Place) -> "Scoring":
        """The scoring of a command, by a model in evaluation mode."""
        judged = config.region_score in NEEDS_ESTIMATOR
        inference = part_of(config, InferenceConfig)
        parts = [weights_digest(model_folder(config.model)), asdict(inference), config.cell]
        if judged and config.estimator is not None:
            parts.append(sha256(Path(config.estimator).read_bytes()).hexdigest())
        mark = sha256(json.dumps(parts).encode()).hexdigest()
        return cls(model, inference, config.cell, judged, mark, place)

    def run(self, images: list[ToLabel], world: World) -> None:
        """See what has not been seen; the images are divided among the processes. Raises TMTError for an image that
        cannot be read or judged."""
        todo = [one for one in images[world.rank :: world.size] if self.read(one) is None]
        failed: TMTError | None = None
        try:
            with tqdm(todo, "look", unit="image", disable=not world.main) as bar:
                for image in bar:
                    self._see(image)
        except TMTError as error:
            failed = error
        if world.any(failed is not None):  # none may wait for one that has given up
            raise failed or DataError("an image could not be read or judged by another process, see above; mend it")

    def _see(self, image: ToLabel) -> None:
        pixels = image.read()
        seen = see(self.model, pixels, regions_of(pixels, self.cell), self.inference, self.judged, str(image.path))
        path = self.place.scores(image.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        numbers = {name: value for name, value in asdict(seen).items() if value is not None}
        write_atomically(path, partial(_save, numbers, {OF: self._mark(image)}))

    def read(self, image: ToLabel) -> Seen | None:
        """What was seen of an image; None where that is of another model, image or setting, or not there."""
        try:
            with safe_open(self.place.scores(image.name), "numpy") as file:
                if (file.metadata() or {}).get(OF) != self._mark(image):
                    return None
                kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError):
            return None
        if self.judged and "divergence" not in kept:
            return None
        return Seen(**kept)

    def seen(self, image: ToLabel) -> Seen:
        """What `run` saw of an image; raises DataError where the image has changed since."""
        found = self.read(image)
        if found is None:
            raise DataError(f"{image.path}: must not change while regions are chosen; run the command again")
        return found

    def _mark(self, image: ToLabel) -> str:
        """Of the image file as well."""
        found = image.path.stat()
        return f"{self.mark} {image.path.name} {found.st_size} {found.st_mtime_ns}"


def _save(numbers: dict[str, np.ndarray], marks: dict[str, str], path: Path) -> None:
    save_file({name: np.ascontiguousarray(value) for name, value in numbers.items()}, path, metadata=marks)
