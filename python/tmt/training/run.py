"""A run: its folder and settings, its two domains, the processes it runs on, and its stages one after another."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tmt.errors import ConfigError
from tmt.methods import method_of
from tmt.runtime.distributed import World, join
from tmt.runtime.files import read_record, write_json, write_text
from tmt.runtime.provenance import describe, now
from tmt.runtime.signals import Stop, listen
from tmt.settings import ORDER, Config, Stage, arguments, estimator_weights, source_model
from tmt.settings.fields import flatten
from tmt.training.checks import check_folder, check_inputs, check_settings
from tmt.training.domains import Domains, common_classes, make_synthetic, open_given, open_synthetic
from tmt.training.estimator import train_estimator
from tmt.training.loop import Workplace
from tmt.training.resuming import lengthen, read_run
from tmt.training.shortage import explain_shortage
from tmt.training.source import train_source
from tmt.training.summary import summarise
from tmt.training.target import fine_tune
from tmt.training.trackers import Tracking, check_trackers


@dataclass(frozen=True)
class Run:
    """What belongs to all stages; each is given what it uses of it."""

    config: Config
    world: World
    stop: Stop
    folder: Path
    domains: Domains

    def workplace(self, stage: str) -> Workplace:
        """Where a stage works; its folder is made where it is missing."""
        folder = self.folder / stage
        folder.mkdir(exist_ok=True)
        tracking = Tracking(self.config.track, flatten(asdict(self.config)))
        return Workplace(folder, self.world, self.stop, self.config.seed, tracking)

    def result(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage left in done.json; None before that. Raises CheckpointError where it is damaged."""
        path = self.folder / stage / "done.json"
        return read_record(path, "remove it, and the stage ends anew") if path.exists() else None

    def finish(self, stage: str, result: object) -> None:
        """Mark a stage as finished, with its results. Everything else it leaves must have been written before."""
        if self.world.main:
            write_json(self.folder / stage / "done.json", result)
        self.world.barrier()


def train(config: Config, argv: Sequence[str] = ()) -> None:
    """Run the configured stages in order; `argv` is put on record.

    Raises tmt.errors.TMTError for what the user can mend, and Interrupted when stopped by a signal.
    """
    with join(config.device) as world, world.only_one(Path(config.out)), listen() as stop:
        run = open_run(config, argv, world, stop)
        for stage in sorted(config.stages, key=ORDER.index):
            if run.result(stage):
                world.say(f"{stage}: finished before")
            else:
                with explain_shortage(config, stage):
                    run.finish(stage, run_stage(run, stage))
        results = {stage: result for stage in ORDER if (result := run.result(stage))}
        summarise(results, config, run.domains, Workplace(run.folder, world, stop, config.seed))


def run_stage(run: Run, stage: Stage) -> object:
    """Train a stage; its result."""
    config, domains, at = run.config, run.domains, run.workplace(stage)
    if stage == "source":
        return train_source(method_of(stage), config, domains, at)
    source = source_model(config, run.folder)
    if stage == "estimator":
        return train_estimator(config, domains, source, at)
    return fine_tune(method_of(stage), config, domains, source, estimator_weights(config, run.folder), at)


def open_run(config: Config, argv: Sequence[str], world: World, stop: Stop) -> Run:
    """Check everything that can be checked before work begins, then make or reopen the run's folder.

    Raises ConfigError, DataError or CheckpointError; until then nothing has been written.
    """
    folder = Path(config.out)
    check_folder(config, folder)
    check_trackers(config.track)
    domains = open_given(config, folder)
    label_set = common_classes(config, domains)
    check_settings(config, world, label_set)
    check_inputs(config, folder, label_set)
    if len(label_set) == 1:
        world.say(
            f"warning: data: {label_set.names[0]} is the only class, which every prediction meets: mIoU says nothing"
        )
    world.barrier()  # no process may look at the folder after another one has begun to fill it
    if world.main:
        _prepare_folder(config, argv, folder, world)
        if domains is None:
            make_synthetic(config, folder)
    world.barrier()
    return Run(config, world, stop, folder, domains or open_synthetic(config, folder))


def _prepare_folder(config: Config, argv: Sequence[str], folder: Path, world: World) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "run.json").exists():
            record = read_run(folder)
            record["resumed"] = [*record.get("resumed", []), now()]
        else:
            record = describe("tmt.train", argv, config.seed, world.size, str(world.device))
        write_json(folder / "run.json", record)
        if (folder / "config.yaml").exists():
            lengthen(config, folder)
        else:
            write_text(folder / "config.yaml", arguments.to_yaml(config))
    except OSError as error:
        raise ConfigError(f"out: {folder} cannot be written ({error.strerror}); choose another --out") from error
