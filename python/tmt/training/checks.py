"""What is checked before a run begins to work or to write. Each check raises an error that says how to mend it."""

from pathlib import Path

from tmt.data import LabelSet
from tmt.errors import CheckpointError, ConfigError
from tmt.methods import method_of
from tmt.model.class_weights import weights_by_class
from tmt.model.factory import model_config, open_model
from tmt.model.hub import local_folder
from tmt.runtime.distributed import World, share
from tmt.runtime.lock import holds_files
from tmt.settings import Config, TMTSettings, estimator_weights, inputs_of, source_model
from tmt.training.resuming import check_resume


def check_folder(config: Config, folder: Path) -> None:
    """The run's folder must be new, or hold a run of the same settings that is to be resumed."""
    used = holds_files(folder)
    if used and not config.resume:
        raise ConfigError(f"out: folder must be empty, got {folder}; use --resume to go on with it, or another --out")
    if used and not (folder / "config.yaml").is_file():
        raise ConfigError(f"out: {folder} holds no run to resume (config.yaml); use another --out")
    if used:
        check_resume(config, folder)


def check_settings(config: Config, world: World, label_set: LabelSet) -> None:
    """The model's settings must fit each other and the classes, and batches the number of processes."""
    try:
        weights_by_class(config.model.class_weights, label_set.names)
    except ValueError as error:
        raise ConfigError(f"model.{str(error).replace(' ', ': ', 1)}") from error
    for stage in config.stages:
        if stage != "estimator" and config.model.base is None:
            model_config(config.model, method_of(stage).configure(TMTSettings(), config.model), label_set)
    share(config.source.batch_size, world, "source.batch_size")
    share(config.target.batch_size, world, "target.batch_size")
    if "joint" in config.stages:
        _check_halves(config, world)
    share(config.estimator.batch_size, world, "estimator.batch_size")


def _check_halves(config: Config, world: World) -> None:
    if config.target.batch_size % (2 * world.size):
        raise ConfigError(
            f"target.batch_size: must be a multiple of {2 * world.size} for stage joint, half of each batch being of "
            f"the source, got {config.target.batch_size}"
        )


def check_inputs(config: Config, folder: Path, label_set: LabelSet) -> None:
    """Each stage's input must exist and predict these classes, or be made by an earlier stage of this run."""
    if "source" not in config.stages:
        _check_source_model(config, folder, label_set)
    elif config.model.base is not None:
        open_model(local_folder(config.model.base, "model.base"))
    for stage in config.stages:
        if "estimator" in inputs_of(stage) and "estimator" not in config.stages:
            _check_estimator(config, folder, stage)


def _check_source_model(config: Config, folder: Path, label_set: LabelSet) -> None:
    model = source_model(config, folder)
    if config.source_model is None and not model.is_dir():
        raise CheckpointError(
            f"{model}: stage {config.stages[0]} needs a source model there; run --stages source first, "
            f"or give --source_model"
        )
    open_model(model, None, label_set)


def _check_estimator(config: Config, folder: Path, stage: str) -> None:
    weights = estimator_weights(config, folder)
    if not weights.is_file():
        raise CheckpointError(
            f"{weights}: stage {stage} needs a trained estimator there; run --stages estimator first, "
            f"or give --estimator_weights"
        )
