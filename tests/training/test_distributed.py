"""Two processes on gloo compute what one process computes with the same global batch."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.helpers import runs

BATCH = 4
KINDS = ("conditional", "error")
"""Of estimators: their stage has another name."""


def first_gradients(argv: list[str], stage: str, path: Path, variables: dict[str, str]) -> int:
    """Loss, gradients and mask count of this process's share of the first batch of a stage, saved to `path`-rank."""
    os.environ.update(variables)
    runs.redirect(path.with_suffix(".log"))
    from tmt.methods import method_of
    from tmt.model.factory import new_model
    from tmt.runtime.distributed import join
    from tmt.runtime.signals import Stop
    from tmt.settings import TMTSettings
    from tmt.settings.arguments import parse
    from tmt.training.estimator import estimator_task, parts_of, random_estimator
    from tmt.training.run import open_run
    from tmt.training.source import source_task
    from tmt.training.target import target_task

    config = parse(argv)
    with join("cpu") as world:
        run = open_run(config, argv, world, Stop())
        plain = method_of("full").configure(TMTSettings(), config.model)
        domains, at = run.domains, run.workplace(stage)
        model = new_model(config.model, plain, seed=3, label_set=domains.label_set)
        if stage == "estimator":
            model = of_kind(model, config)
            task = estimator_task(config, parts_of(config, domains), model, random_estimator(model, at), at)
        else:
            make = source_task if stage == "source" else target_task
            task = make(method_of(stage), model, config, domains, at)
        phase = task.phases[0]
        batch = next(phase.batches(0, phase.steps))
        loss, _ = phase.loss(batch)
        loss.backward()
        mean = world.sum(loss.detach().clone()) / world.size
        gradients = {name: p.grad for name, p in task.module.named_parameters() if p.grad is not None}
        masks = sum(len(label.unique()) - int((label == 255).any()) for label in batch["labels"])
        content = {"loss": loss.detach(), "mean": mean, "gradients": gradients, "masks": masks, "names": batch["names"]}
        torch.save(content, f"{path}-{world.rank}")
    return 0


def of_kind(model, config):
    """The model for the estimator that is to be trained."""
    from tmt.model.factory import freeze

    model.config.settings = replace(model.config.settings, estimator_kind=config.estimator.kind)
    freeze(model)
    return model


def gradients_of(processes: int, stage: str, folder: Path, roots: tuple[Path, Path]) -> list[dict]:
    """The first gradients on every process of a world."""
    path = folder / f"{stage}-{processes}"
    batch = (f"--{name}.batch_size={BATCH}" for name in ("source", "target", "estimator"))
    kind = stage if stage in KINDS else "domain"
    more = ("--model.drop_path=0", "--augment.scale=[1.5,2.5]", f"--estimator.kind={kind}", *batch)
    argv = runs.arguments(folder / f"run-{path.name}", *roots, *more)
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(runs.free_port()), "WORLD_SIZE": str(processes)}
    stage = "estimator" if stage in KINDS else stage
    started = [
        runs.start(first_gradients, argv, stage, path, {**world, "RANK": str(rank)}) for rank in range(processes)
    ]
    codes = runs.finish_all(started)
    assert codes == [0] * processes, path.with_suffix(".log").read_text()
    return [torch.load(f"{path}-{rank}", weights_only=True) for rank in range(processes)]


@pytest.mark.parametrize("stage", ["source", "estimator", *KINDS, "linear", "joint", "leep", "otce"])
def test_first_step_equals_one_process(stage: str, tmp_path: Path, source_root: Path, target_root: Path) -> None:
    one = gradients_of(1, stage, tmp_path, (source_root, target_root))[0]
    two = gradients_of(2, stage, tmp_path, (source_root, target_root))
    assert sorted(two[0]["names"] + two[1]["names"]) == sorted(one["names"])
    assert two[0]["mean"] == two[1]["mean"]
    torch.testing.assert_close(two[0]["mean"], one["loss"], rtol=1e-5, atol=0)
    whole = torch.stack([gradient.norm() for gradient in one["gradients"].values()]).norm()
    # A new model scores all pixels nearly alike: LEEP's gradients are small differences of large terms.
    tolerance = 1e-3 if stage == "leep" else 1e-5
    for part in two:
        assert part["gradients"].keys() == one["gradients"].keys()
        for name, expected in one["gradients"].items():
            # A bias before a normalisation has no gradient but rounding: small ones are compared with the whole.
            error = (part["gradients"][name] - expected).norm() / expected.norm().clamp(min=1e-3 * whole)
            assert error < tolerance, f"{name}: gradients differ by {error:.1e}"


def test_losses_are_normalised_by_the_global_mask_count(tmp_path: Path, source_root: Path, target_root: Path) -> None:
    """The shares have different mask counts, so that normalising by a process's own count would show."""
    from tmt.model import TMTConfig
    from tmt.model.criterion import TMTLoss

    two = gradients_of(2, "source", tmp_path, (source_root, target_root))
    counts = [part["masks"] for part in two]
    assert counts[0] != counts[1], "the data must be such that the test can fail"
    config = TMTConfig(num_labels=19)
    assert TMTLoss(config)._normalisers(sum(counts), torch.ones(1).double())[0] == sum(counts)


@pytest.fixture
def torchrun(tmp_path: Path, source_root: Path, target_root: Path) -> Iterator[Path]:
    """A run of two steps on two processes, by the command in the documentation."""
    argv = runs.arguments(tmp_path / "run", source_root, target_root, *SHORT)
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        f"--master_port={runs.free_port()}",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*launcher, "-m", "tmt.train", *argv]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=180)
    assert result.returncode == 0, result.stderr
    yield tmp_path / "run"


SHORT = ("--stages=source", "--model.drop_path=0", "--source.steps=2", "--source.eval_every=2", "--source.lr=1e-4")


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "source" / "metrics.jsonl").read_text().splitlines()]


def test_torchrun(torchrun: Path, tmp_path: Path, source_root: Path, target_root: Path) -> None:
    """The same command on two processes: the same losses, one set of files, every validation image counted once."""
    argv = runs.arguments(tmp_path / "alone", source_root, target_root, *SHORT)
    assert runs.finish(runs.start(runs.train, argv, tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    together, alone = lines(torchrun), lines(tmp_path / "alone")
    assert [line["step"] for line in together] == [line["step"] for line in alone]
    for left, right in zip(together[:2], alone[:2], strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-4)
    assert together[-1]["evaluation"]["pixels"] == alone[-1]["evaluation"]["pixels"]
    assert together[-1]["evaluation"]["images"] == 3
    assert json.loads((torchrun / "run.json").read_text())["processes"] == 2
