"""Kinds of estimators end to end: trained, used by TMT, loaded again, resumed exactly."""

import json
from pathlib import Path

import pytest
import torch

from tests.helpers import runs
from tests.training.test_methods import opened
from tests.training.test_resume import kill_at, without_time
from tmt.errors import ConfigError
from tmt.model.factory import kind_of_estimator, load_estimator, open_model
from tmt.training.estimator import parts_of

KINDS = ("conditional", "entropy", "error")


def arguments(out: Path, roots: tuple[Path, Path], finished: Path, *more: str) -> list[str]:
    """A command line of estimator and TMT, from a finished run's source model."""
    return runs.arguments(
        out, *roots, "--stages=estimator,tmt", f"--source_model={finished}/source/model", "--estimator.eval_every=2",
        "--pictures=0", *more,
    )  # fmt: skip


def train(argv: list[str], log: Path) -> None:
    assert runs.finish(runs.start(runs.train, argv, log)) == 0, log.read_text()


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, source_root: Path, target_root: Path, finished: Path
) -> dict[str, Path]:
    """The folder of a run of each kind."""
    folder = tmp_path_factory.mktemp("kinds")
    for kind in KINDS:
        argv = arguments(folder / kind, (source_root, target_root), finished, f"--estimator.kind={kind}")
        train(argv, folder / f"log-{kind}")
    return {kind: folder / kind for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_judges_as_its_estimator_s_file(kind: str, trained: dict[str, Path], finished: Path) -> None:
    """T of the fine-tuned model, loaded again, is that of the source model with the estimator."""
    run = trained[kind]
    assert kind_of_estimator(run / "estimator" / "estimator.safetensors") == kind
    model = open_model(run / "tmt" / "model").eval()
    assert model.config.estimator_kind == kind
    given = {"estimator_kind": kind, "transferability": False, "transfer_features": "live"}

    def adapt(saved):
        return type(saved)(**{**vars(saved), **given, "cell": 2})

    source = open_model(finished / "source" / "model", adapt).eval()
    assert load_estimator(source, run / "estimator" / "estimator.safetensors") == []
    images = torch.randn(2, 3, 48, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = source.region_evidence(images)
        expected = torch.sigmoid(-source.estimator.judge(found.features, found.probabilities))
        outputs = model(images)
    assert torch.equal(outputs.region_labels, found.labels)
    values = expected.flatten(1).gather(1, found.labels.flatten(1)).view_as(found.labels)
    torch.testing.assert_close(outputs.transferability, values)


def test_what_each_kind_reports(trained: dict[str, Path]) -> None:
    found = {kind: json.loads((run / "estimator" / "done.json").read_text()) for kind, run in trained.items()}
    assert all(found[kind]["kind"] == kind for kind in KINDS)
    assert {"accuracy", "proxy_a_distance", "loss"} <= found["conditional"]["last"].keys()
    assert found["conditional"]["training_images"] == {"source": 6, "target": 6}
    assert {"r2", "rho", "loss"} <= found["error"]["last"].keys() and "accuracy" not in found["error"]["last"]
    assert found["error"]["training_images"] == {"target": 5} and found["error"]["kept"] == "best"
    assert found["entropy"]["last"] == {"step": 0}
    assert not (trained["entropy"] / "estimator" / "metrics.jsonl").exists()


def test_the_best_on_held_out_images_is_kept(trained: dict[str, Path]) -> None:
    stage = trained["error"] / "estimator"
    name = "estimator.safetensors"
    assert (stage / name).read_bytes() == (stage / "best" / name).read_bytes()
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    scores = {line["step"]: line["evaluation"]["score"] for line in lines if "evaluation" in line}
    best = json.loads((stage / "done.json").read_text())["best"]
    assert set(scores) == {2, 4} and best["score"] == max(scores.values()) == -best["loss"]


def test_held_out_images_are_neither_trained_on_nor_of_the_validation_split(
    tmp_path: Path, source_root: Path, target_root: Path, finished: Path
) -> None:
    argv = arguments(tmp_path / "run", (source_root, target_root), finished, "--estimator.early_stop")
    run = opened(argv)
    parts = parts_of(run.config, run.domains)
    for domain, train_part, held in zip((run.domains.source, run.domains.target), parts.train, parts.held, strict=True):
        assert set(train_part.names) | set(held.names) == set(domain.train.names)
        assert not set(train_part.names) & set(held.names) and len(held.names) == 1
    assert parts_of(run.config, run.domains).held[1].names == parts.held[1].names


def test_one_labelled_image_is_too_few_to_hold_one_out(
    tmp_path: Path, source_root: Path, target_root: Path, finished: Path
) -> None:
    more = ("--estimator.kind=error", "--target.images=1")
    run = opened(arguments(tmp_path / "run", (source_root, target_root), finished, *more))
    with pytest.raises(ConfigError, match="needs at least 2 training images of the target, got 1; raise target.images"):
        parts_of(run.config, run.domains)


@pytest.mark.parametrize("kind", ["conditional", "error"])
def test_resumed_exactly(
    kind: str, trained: dict[str, Path], tmp_path: Path, source_root: Path, target_root: Path, finished: Path
) -> None:
    """With what the conditional one has counted of classes."""
    more = (f"--estimator.kind={kind}", "--resume", "--estimator.checkpoint_every=1")
    argv = arguments(tmp_path / "run", (source_root, target_root), finished, *more)
    for count in (1, 3):
        kill_at(argv, tmp_path / "log", tmp_path / "run" / "estimator" / "metrics.jsonl", count, 0)
    train(argv, tmp_path / "log")
    for name in ("estimator/estimator.safetensors", "tmt/model/model.safetensors", "estimator/done.json"):
        assert (trained[kind] / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name
    log = "estimator/metrics.jsonl"
    assert without_time(trained[kind] / log) == without_time(tmp_path / "run" / log)
