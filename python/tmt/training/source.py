"""Stage `source`: a plain model on the source domain, in the end evaluated on the target too."""

from functools import partial
from typing import Any

from tmt.methods import Method
from tmt.model import TMTForSemanticSegmentation
from tmt.model.factory import new_model, open_base, open_model
from tmt.model.hub import local_folder
from tmt.runtime.seeding import derive
from tmt.settings import Config, TMTSettings
from tmt.training.domains import Domains
from tmt.training.loop import Phase, State, Task, Workplace
from tmt.training.segmentation import (
    SegmentationResult,
    prepare,
    result_of,
    score,
    segmentation_loss,
    segmentation_task,
    train_task,
)
from tmt.training.streams import stream


def train_source(method: Method, config: Config, domains: Domains, at: Workplace) -> SegmentationResult:
    """Train the source model from random weights or from `model.base`."""
    model = first_model(method, config, domains)
    model.config.image_height = config.data.height or None
    state = train_task(method, source_task(method, model, config, domains, at), domains.source, at)
    result = result_of(method, model, domains.source, config.source, state)
    return {**result, "target": on_target(model, config, domains, state, at)} if domains.target.labelled else result


def source_task(
    method: Method, model: TMTForSemanticSegmentation, config: Config, domains: Domains, at: Workplace
) -> Task:
    """The task of training `model` on the source domain."""
    settings, domain, world = config.source, domains.source, at.world
    network = prepare(method, model, at, config.gradient_checkpointing)
    rare = domain.rare(config, world)
    batches = stream(config, world, domain.train, settings.batch_size, domain.role, rare, scaling=model.scaling)
    loss = segmentation_loss(network, world, settings.amp, len(domains.label_set))
    phases = [Phase(settings.steps, batches, loss)]
    return segmentation_task(method, model, domain, phases, settings, config.evaluation, at)


def first_model(method: Method, config: Config, domains: Domains) -> TMTForSemanticSegmentation:
    """The model that training starts from, a function of the run's seed."""
    seed = derive(config.seed, "weights")
    if config.model.base is None:
        return new_model(config.model, method.configure(TMTSettings(), config.model), seed, domains.label_set)
    adapt = partial(method.configure, model=config.model)
    return open_base(local_folder(config.model.base, "model.base"), adapt, domains.label_set, seed)


def on_target(
    model: TMTForSemanticSegmentation, config: Config, domains: Domains, state: State, at: Workplace
) -> dict[str, Any]:
    """The scores of the last and the best weights on the target, which they have not seen."""
    domain, best_step = domains.target, state.best["step"]
    last = best = score("source", model, domain, config.evaluation, at)
    if best_step != state.last["step"]:
        best_model = open_model(at.folder / "best").to(at.world.device)
        best = score("source", best_model, domain, config.evaluation, at)
    return {"domain": domain.name, "last": last, "best": {"step": best_step, **best}}
