"""Experiment trackers that get what a stage records: TensorBoard, Weights & Biases, MLflow (extra [track]).

A tracker is a class of two methods, made for one stage. What it gets is in metrics.jsonl as well, so that one which
fails is left out with a warning and costs nothing else. Each is set up by its own environment variables (WANDB_MODE,
MLFLOW_TRACKING_URI, ...); without any, MLflow writes below the run's folder.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from tmt.errors import ConfigError, reason_of
from tmt.settings import TRACKERS, TrackerName

PROJECT = "tmt"
"""What runs are filed under where the environment does not say."""


class Tracker(Protocol):
    """Where the numbers of one stage go."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep values by their names, of a step counted from 1."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class TensorBoard:
    """Event files in the stage's folder `tensorboard`; what was logged after `step` is purged."""

    def __init__(self, folder: Path, step: int, settings: Mapping[str, Any]):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._writer.add_text("settings", "\n".join(f"    {name}: {value}" for name, value in settings.items()), step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """As `Tracker.log`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """As `Tracker.close`."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases for each stage, grouped by the run's folder; a resumed stage goes on with its own."""

    def __init__(self, folder: Path, step: int, settings: Mapping[str, Any]):
        import wandb

        run, stage = folder.parent.name, folder.name
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), group=run, name=f"{run}/{stage}", job_type=stage,
            id=_identity(folder), resume="allow", dir=str(folder), config=dict(settings),
        )  # fmt: skip
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """As `Tracker.log`."""
        self._run.log({"step": step, **values})

    def close(self) -> None:
        """As `Tracker.close`."""
        self._run.finish()


class MLflow:
    """A run of MLflow for each stage; a resumed stage goes on with its own."""

    def __init__(self, folder: Path, step: int, settings: Mapping[str, Any]):
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric = Metric
        if "MLFLOW_TRACKING_URI" not in os.environ:  # files need no server, no database, and to be asked for
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        kept = (folder.parent.resolve() / "mlruns").as_uri()
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", kept))
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        identity = _identity(folder)
        found = self._client.search_runs([number], f"tags.`tmt.stage` = '{identity}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            self._client.set_terminated(self._id, "RUNNING")
            return
        title = f"{folder.parent.name}/{folder.name}"
        self._id = self._client.create_run(number, run_name=title, tags={"tmt.stage": identity}).info.run_id
        texts = [Param(name, str(value)) for name, value in settings.items()]
        for first in range(0, len(texts), 100):  # as many as a call takes
            self._client.log_batch(self._id, params=texts[first : first + 100])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """As `Tracker.log`."""
        now = int(1000 * time.time())
        self._client.log_batch(self._id, [self._metric(name, value, now, step) for name, value in values.items()])

    def close(self) -> None:
        """As `Tracker.close`."""
        self._client.set_terminated(self._id)


KINDS: dict[TrackerName, Callable[[Path, int, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow
}  # fmt: skip


@dataclass(frozen=True)
class Tracking:
    """Which trackers a run has, and the settings that they are told, by their names with dots."""

    names: tuple[TrackerName, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


class Trackers:
    """The trackers of the stage in `folder`, of which `step` steps are done. One that fails says why, once, and is left
    out from then on."""

    def __init__(self, tracking: Tracking, folder: Path, step: int):
        self._open: dict[TrackerName, Tracker] = {}
        for name in tracking.names:
            self._try(name, lambda name=name: self._open.update({name: KINDS[name](folder, step, tracking.settings)}))

    def log(self, step: int, **values: object) -> None:
        """Give every tracker the numbers among the values, those of lists and of values in values by longer names."""
        numbers = dict(_numbers(values))
        for name, tracker in list(self._open.items()):
            self._try(name, lambda tracker=tracker: tracker.log(step, numbers))

    def close(self) -> None:
        """Close every tracker."""
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.close)

    def _try(self, name: TrackerName, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:  # a service's own, of any kind
            self._open.pop(name, None)
            tqdm.write(f"warning: track: {name} gave up ({reason_of(error)}); training goes on without it")


def check_trackers(names: tuple[TrackerName, ...]) -> None:
    """Raises ConfigError for a tracker that is named twice or whose package is missing."""
    if len(set(names)) < len(names):
        raise ConfigError(f"track: must name each tracker once, got {', '.join(names)}; choose from {TRACKERS}")
    for name in names:
        if find_spec(name) is None:  # named as its package
            raise ConfigError(
                f"track: {name} is not installed; pip install 'transferable-mask-transformer[track]', or leave it out"
            )


def _identity(folder: Path) -> str:
    """Of a stage on this machine, in letters that services take."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number below, by its names with a stroke between."""
    for name, value in values.items():
        if isinstance(value, bool | str) or value is None:
            continue
        if isinstance(value, int | float):
            yield prefix + name, float(value)
        elif isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, list | tuple):
            yield from _numbers({str(i): one for i, one in enumerate(value)}, f"{prefix}{name}/")
