"""The target stages: the source model, trained on by one method on the target domain."""

from pathlib import Path

from tmt.data import Scaling
from tmt.methods import Method, TransferMetric, metric_steps
from tmt.model import TMTForSemanticSegmentation
from tmt.model.factory import kind_of_estimator, load_estimator, open_model
from tmt.runtime.distributed import World
from tmt.settings import Config, TMTSettings, inputs_of
from tmt.training.domains import Domain, Domains
from tmt.training.loop import Phase, Task, Workplace
from tmt.training.segmentation import (
    SegmentationResult,
    metric_loss,
    prepare,
    result_of,
    segmentation_loss,
    segmentation_task,
    train_task,
)
from tmt.training.streams import Pairs, Stream, stream


def fine_tune(
    method: Method, config: Config, domains: Domains, source_model: Path, estimator: Path, at: Workplace
) -> SegmentationResult:
    """Train the model in the folder `source_model` on the target; `estimator` is the file of an estimator."""
    uses_estimator = "estimator" in inputs_of(method.name)
    kind = kind_of_estimator(estimator) if uses_estimator else "domain"

    def adapt(saved: TMTSettings) -> TMTSettings:
        return method.configure(saved, config.model).judged_by(kind, saved)

    model = open_model(source_model, adapt, domains.label_set)
    model.config.image_height = config.data.height or None
    if uses_estimator:
        for difference in load_estimator(model, estimator):
            at.world.say(f"warning: {estimator}: trained on other regions: model.{difference}")
    task = target_task(method, model, config, domains, at)
    state = train_task(method, task, domains.target, at)
    result = result_of(method, model, domains.target, config.target, state)
    if isinstance(task.companion, TransferMetric):
        result["metric"] = task.companion.report(task.phases[0].steps, config.target.batch_size)
    if method.keeps_source:
        result["source_images"] = len(domains.source.train)
    return result


def target_task(
    method: Method, model: TMTForSemanticSegmentation, config: Config, domains: Domains, at: Workplace
) -> Task:
    """The task of training `model` on the target domain, first on the method's metric where it has one."""
    settings, domain, world = config.target, domains.target, at.world
    network = prepare(method, model, at, config.gradient_checkpointing)
    batches = (
        half_and_half(config, domains, at, model.scaling)
        if method.keeps_source
        else target_stream(config, domain, world, model.scaling)
    )
    loss = segmentation_loss(network, world, settings.amp, len(domains.label_set))
    metric = method.metric(config.metric, len(domains.label_set), settings.batch_size)
    first = [] if metric is None else [metric_phase(metric, model, config, domains, at)]
    phases = [*first, Phase(settings.steps - sum(phase.steps for phase in first), batches, loss)]
    return segmentation_task(method, model, domain, phases, settings, config.evaluation, at, companion=metric)


def target_stream(config: Config, target: Domain, world: World, scaling: Scaling) -> Stream:
    """The target's batches, the same for every method that trains on the target alone."""
    rare = target.rare(config, world)
    return stream(config, world, target.train, config.target.batch_size, target.role, rare, scaling=scaling)


def half_and_half(config: Config, domains: Domains, at: Workplace, scaling: Scaling) -> Pairs:
    """Batches of `target.batch_size` images, half of the source, half of the target."""
    half, world = config.target.batch_size // 2, at.world
    named = {"joint-source": domains.source, domains.target.role: domains.target}
    return Pairs(
        *(
            stream(config, world, one.train, half, name, one.rare(config, world), scaling=scaling)
            for name, one in named.items()
        )
    )


def metric_phase(
    metric: TransferMetric,
    model: TMTForSemanticSegmentation,
    config: Config,
    domains: Domains,
    at: Workplace,
) -> Phase:
    """The phase that maximises a metric, on the target's images and, where it asks, on as many of the source."""
    settings, world = config.target, at.world
    steps = metric_steps(config.metric.fraction, settings.steps)
    world.say(f"\n{metric.name}: the first {steps} of {settings.steps} steps maximise {metric.name.upper()}")
    target = target_stream(config, domains.target, world, model.scaling)
    loss = metric_loss(metric.to(world.device), model, world, settings.amp)
    if not metric.sees_source:
        return Phase(steps, target, loss)
    rare = domains.source.rare(config, world)
    size = settings.batch_size
    source = stream(config, world, domains.source.train, size, "metric-source", rare, scaling=model.scaling)
    return Phase(steps, Pairs(source, target), loss)
