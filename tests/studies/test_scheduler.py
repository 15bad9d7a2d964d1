"""Running a study whose trainings are stubs: order, results, failures, retries, and what stays on the disk."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.studies import small
from tmt.cli.study import listing, main
from tmt.errors import STATE_ERROR, USER_ERROR, ConfigError, DataError
from tmt.runtime.lock import only_one, try_lock
from tmt.studies import lifecycle
from tmt.studies.attempts import Attempt, lost_its_state
from tmt.studies.backends import Local, visible_gpus
from tmt.studies.commands import commands_of
from tmt.studies.reuse import reuse
from tmt.studies.study import Study

PAIR = {"pairs": [["gtav", "cityscapes"]]}
SOURCE, ESTIMATOR = "source-gtav-s0", "estimator-gtav-cityscapes-superpixel-s0"
TMT, FULL = "tmt-gtav-cityscapes-s0", "full-gtav-cityscapes-s0"


def order(study: Study, **deeds: list[str]) -> None:
    """Tell the stubs what to do, by job id and attempt."""
    study.folder.mkdir(parents=True, exist_ok=True)
    (study.folder / "orders.json").write_text(json.dumps(deeds))


def begin(tmp_path: Path, **changes: object) -> Study:
    """A study of one pair, its folder there already."""
    study = small.begin(tmp_path, **{**PAIR, **changes})
    small.run(study, only="nothing")
    return study


def attempts(study: Study, job: str) -> int:
    path = study.folder / "attempts" / job
    return len(path.read_text()) if path.exists() else 0


def test_all(tmp_path: Path) -> None:
    study = small.begin(tmp_path)
    assert set(study.states().values()) == {"missing"} and study.results() == []
    assert small.run(study) == 0
    assert set(study.states().values()) == {"done"}
    assert all(attempts(study, job) == 1 for job in study.jobs)
    found = {result.id: result for result in study.results()}
    assert list(found) == list(study.jobs)
    tmt = found[TMT]
    assert (tmt.kind, tmt.source, tmt.target, tmt.variant, tmt.stage) == ("target", "gtav", "cityscapes", "tmt", "tmt")
    assert (tmt.seed, tmt.mask_rule, tmt.regions, tmt.steps, tmt.revision) == (
        0,
        "foreground",
        "superpixel",
        20_000,
        "abc",
    )
    assert tmt.curve == ((2, tmt.last["score"]),) and tmt.allowed_fraction == (0.5,) and tmt.fallback_rate == (0.1,)
    assert (
        found[SOURCE].on == {"gtav": {"miou": found[SOURCE].last["miou"]}}
        and found[ESTIMATOR].estimator["accuracy"] == 0.9
    )
    assert found[FULL].estimator is None and found[FULL].regions is None and found[FULL].on is None
    assert "at work on " + TMT in (study.job_folder(TMT) / "log.txt").read_text()
    assert small.run(study) == 0 and attempts(study, TMT) == 1, "what is done is not done again"


def test_domains_are_drawn_once_for_all_seeds(tmp_path: Path) -> None:
    study = small.begin(tmp_path)
    small.run(study)
    manifests = sorted(path.parent.name for path in (study.folder / "data").glob("*/synthetic.json"))
    assert manifests == ["cityscapes", "gtav", "synthia"]
    images = list((study.folder / "data" / "gtav" / "images").iterdir())
    assert len(images) == 3 + 1, "the larger of both roles, and one to validate"


def test_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wanted, and what that needs; the progress bar counts these."""
    study = small.begin(tmp_path)
    assert small.run(study, only="tmt-gtav-c*") == 0
    assert " 3/3 " in capsys.readouterr().err
    assert {job for job, state in study.states().items() if state == "done"} == {SOURCE, ESTIMATOR, TMT}


def test_more_variants_and_seeds(tmp_path: Path) -> None:
    study = small.begin(tmp_path, **PAIR)
    small.run(study)
    variants = {**small.SMALL["variants"], "new": {"stage": "full", "seeds": [0, 5]}}
    more = small.begin(tmp_path, variants=variants, **PAIR)
    assert sum(state == "missing" for state in more.states().values()) == 3
    assert small.run(more) == 0 and attempts(more, SOURCE) == 1 and len(Study.open(more.folder).variants) == 5


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    small.run(small.begin(tmp_path, **PAIR))
    with pytest.raises(ConfigError, match=r"out: .*settings.target.steps: 20000 -> 3.*another --out"):
        small.begin(tmp_path, settings={**small.SMALL["settings"], "target.steps": 3}, **PAIR)


def test_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"out: .*must be new, empty or a study's folder"):
        small.begin(tmp_path)


def test_failed_job_is_tried_again(tmp_path: Path) -> None:
    study = begin(tmp_path)
    order(study, **{ESTIMATOR: ["fail"]})
    assert small.run(study) == 0 and attempts(study, ESTIMATOR) == 2


def test_failed_job_stops_only_what_needs_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = begin(tmp_path)
    order(study, **{ESTIMATOR: ["fail"] * 3})
    assert small.run(study) == 3, "the estimator, and the two variants that need it"
    states = study.states()
    assert states[ESTIMATOR] == "failed" and states[TMT] == states["tmt_p0.1-gtav-cityscapes-s0"] == "blocked"
    assert states[FULL] == states["wo_acte-gtav-cityscapes-s0"] == "done"
    log = study.job_folder(ESTIMATOR) / "log.txt"
    line = f"{ESTIMATOR}: data.source_root: folder is not there; mend it (2 attempts; log: {log})"
    assert f"failed: {line}" in listing(study).splitlines()
    assert main([str(study.folder), "--list"]) == 0 and line in capsys.readouterr().out
    assert small.run(study) == 0 and set(study.states().values()) == {"done"}, "the next call tries again"
    assert attempts(study, ESTIMATOR) == 4


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        ("kill", "killed by SIGKILL, as happens when memory runs out; use fewer --jobs or a smaller batch"),
        ("memory", "ran out of memory; use fewer --jobs or a smaller batch (MemoryError)"),
        ("disk", "disk full (OSError: [Errno 27] File too large)"),
    ],
)
def test_ways_to_fail(tmp_path: Path, deed: str, words: str) -> None:
    """Killed for memory, refused memory, refused disk: one line with the log's path, and the study goes on."""
    study = begin(tmp_path)
    order(study, **{ESTIMATOR: [deed]})
    assert small.run(study, retries=0) == 3
    assert f"failed: {ESTIMATOR}: {words} (1 attempt; log: {study.job_folder(ESTIMATOR)}/log.txt)" in listing(study)
    assert small.run(study, retries=0) == 0


def test_damaged_job_begins_anew(tmp_path: Path) -> None:
    """A folder that tmt.train refuses is emptied before the next attempt; the log stays."""
    study = begin(tmp_path)
    order(study, **{TMT: ["damage"]})
    assert small.run(study) == 0
    log = (study.job_folder(TMT) / "log.txt").read_text()
    assert "cannot be read (bad file)" in log and log.count("at work") == 2


@pytest.mark.parametrize("left", [b"", b"out: x", b"\xff\xfe"])
def test_half_written_folder(tmp_path: Path, left: bytes) -> None:
    study = begin(tmp_path)
    folder = study.job_folder(TMT)
    (folder / "tmt").mkdir(parents=True)
    (folder / "config.yaml").write_bytes(left)
    (folder / "damaged").touch()
    assert small.run(study) == 0 and attempts(study, TMT) == 1 and not (folder / "damaged").exists()


def test_ended_well_but_left_nothing(tmp_path: Path) -> None:
    study = begin(tmp_path)
    commands = lambda job: [[sys.executable, "-c", "print('hello')"]]  # noqa: E731
    assert small.run(study, commands=commands, retries=0) == len(study.jobs)
    assert f"{SOURCE}/source/done.json: No such file or directory" in study.failure(SOURCE)


def test_full_disk_for_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The study's own files cannot be written: a failure like any other."""
    study = begin(tmp_path)

    def write(path: Path, content: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "write_json", write)
        assert small.run(study, retries=0) == len(study.jobs)
        assert study.states()[SOURCE] == "failed"
    assert f"disk full ({study.result_file(SOURCE)}: No space left on device)" in study.failure(SOURCE)
    assert small.run(study) == 0


def test_full_disk_for_the_record_of_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = begin(tmp_path)
    order(study, **{TMT: ["fail"]})

    def add(folder: Path, attempt: object) -> None:
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr(lifecycle, "add_attempt", add)
    assert small.run(study, retries=0) == 1 and study.states()[TMT] == "missing"


def test_damaged_results(tmp_path: Path) -> None:
    study = begin(tmp_path)
    small.run(study)
    study.result_file(TMT).write_text("{")
    with pytest.raises(ConfigError, match=rf"{TMT}.json: is not a job's results.*remove it"):
        study.results()


@pytest.mark.parametrize("keep", ["all", "models", "nothing"])
def test_keep(tmp_path: Path, keep: str) -> None:
    study = begin(tmp_path)
    assert small.run(study, keep=keep) == 0
    assert not list(study.folder.glob("jobs/*/*/checkpoint.pt"))
    models = len([job for job in study.jobs.values() if job.kind != "estimator"])
    assert len(list(study.folder.glob("jobs/*/*/model"))) == (0 if keep == "nothing" else models)
    assert len(list(study.folder.glob("jobs/*/*/best"))) == (len(study.jobs) if keep == "all" else 0)
    assert all((study.job_folder(job) / "log.txt").exists() for job in study.jobs)
    assert len(study.results()) == len(study.jobs)


def test_dropped_models_are_made_again_when_needed(tmp_path: Path) -> None:
    study = begin(tmp_path)
    small.run(study, keep="nothing")
    before = study.result_file(SOURCE).read_text()
    variants = {**small.SMALL["variants"], "new": {"stage": "tmt"}}
    more = small.begin(tmp_path, variants=variants, **PAIR)
    assert small.run(more) == 0
    assert [attempts(more, job) for job in (SOURCE, ESTIMATOR, TMT)] == [2, 2, 1]
    assert json.loads(more.result_file(SOURCE).read_text())["last"] == json.loads(before)["last"]


def test_results_without_job_folders(tmp_path: Path) -> None:
    """As in a fresh clone of committed results: everything is done."""
    study = begin(tmp_path)
    small.run(study)
    for name in ("jobs", "data"):
        subprocess.run(["rm", "-r", str(study.folder / name)], check=True)
    opened = Study.open(study.folder)
    assert (
        set(opened.states().values()) == {"done"}
        and small.run(opened) == 0
        and len(opened.results()) == len(opened.jobs)
    )


def test_command_that_cannot_be_started(tmp_path: Path) -> None:
    study = begin(tmp_path)
    nowhere = tmp_path / "nowhere"
    assert small.run(study, commands=lambda job: [[str(nowhere)]], retries=0, only=SOURCE) == 1
    assert f"{nowhere}: No such file or directory" in study.failure(SOURCE) and small.run(study, only=SOURCE) == 0


def test_checkpoints_that_a_killed_call_left(tmp_path: Path) -> None:
    study = begin(tmp_path)
    small.run(study)
    left = study.job_folder(TMT) / "tmt" / "checkpoint.pt"
    left.touch()
    assert small.run(study) == 0 and not left.exists()


def test_jobs_share_gpus(tmp_path: Path) -> None:
    """Three jobs at a time on two GPUs: the third shares the first one's; a free place is taken again."""
    backend = Local(3, ("4", "7"))
    command = [sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"]
    handles = []
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
        handles.append(backend.start(tmp_path / name, [command], {}, tmp_path / "locks" / name))
        if name == "c":
            while handles[1].poll() is None:
                time.sleep(0.01)
    for handle in handles:
        while handle.poll() is None:
            time.sleep(0.01)
    assert [(tmp_path / name / "log.txt").read_text().strip() for name in "abcd"] == ["4", "7", "4", "7"]


def test_visible_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert visible_gpus() == ("2", "3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == ()


def test_locked(tmp_path: Path) -> None:
    study = begin(tmp_path)
    small.run(study, only=SOURCE)
    command = [sys.executable, "-m", "tmt.experiments", str(study.folder)]
    with only_one(study.folder):
        ended = subprocess.run(command, capture_output=True, text=True)
        listed = subprocess.run([*command, "--list"], capture_output=True, text=True)
    assert ended.returncode == 2 and listed.returncode == 0 and "missing" in listed.stdout
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: out: {study.folder} is in use by process ") and "end it" in line


def test_a_folder_that_somebody_trains_in_by_hand_is_waited_for(tmp_path: Path) -> None:
    """With the command that --commands prints: the study neither empties the folder nor starts a second training."""
    study = begin(tmp_path)
    one = small.scheduler(study)
    job = one._plan()[SOURCE]
    with only_one(job.job.folder):
        assert not job.start() and job.busy and not (job.job.folder / "config.yaml").exists()
    assert small.run(study) == 0


def test_what_the_next_attempt_may_go_on_from() -> None:
    """A state is lost where tmt.train said so, and not for want of room, memory, permission or the lock."""
    codes = {code: lost_its_state(Attempt(code, 0.0, "why")) for code in (STATE_ERROR, USER_ERROR, 1, -9, 143)}
    assert codes == {STATE_ERROR: True, USER_ERROR: False, 1: False, -9: False, 143: False}


def test_listed_as_running(tmp_path: Path) -> None:
    study = begin(tmp_path)
    descriptor = try_lock(study.lock_file(SOURCE))
    assert descriptor is not None and study.states()[SOURCE] == "running"
    assert f"running: {SOURCE}" in listing(study)


def test_missing_root(tmp_path: Path) -> None:
    study = small.begin(tmp_path, roots={"gtav": str(tmp_path / "nowhere")}, **PAIR)
    with pytest.raises(ConfigError, match=r"roots.gtav: must be the folder of the dataset, got .*nowhere"):
        small.run(study)


def test_changed_domain(tmp_path: Path) -> None:
    study = begin(tmp_path)
    (study.folder / "data" / "gtav").mkdir(parents=True)
    (study.folder / "data" / "gtav" / "mine.png").touch()
    with pytest.raises(DataError, match="got one with other content"):
        small.run(study)


def test_commands(tmp_path: Path) -> None:
    study = begin(tmp_path)
    (train,) = commands_of(study.jobs[TMT], study)
    assert train[1:] == ["-m", "tmt.train", "--config", f"{study.job_folder(TMT)}/config.yaml", "--resume"]
    first, score = commands_of(study.jobs[SOURCE], study, processes=2)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    assert first[1:8] == [*launcher, "tmt.train"]
    assert score[1:] == [*launcher, "tmt.cli.score", str(study.folder), SOURCE]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nothing"], "study: must be one of "),
        (["smoke", "--jobs", "0"], "jobs: must be a whole number of at least 1 or none, got 0"),
        (["smoke", "--gpus", "-1"], "gpus: must be a number of at least 0, got -1"),
        (["smoke", "--root", "kitti=/data"], "root: must be DATASET=PATH with a dataset of the study"),
        (["smoke", "--keep", "some"], "keep: must be one of all, models, nothing, got some"),
        (["smoke", "--jbos", "1"], "--jbos: unknown option; did you mean --jobs?"),
    ],
)
def test_bad_command_lines(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line


def test_reuse(tmp_path: Path) -> None:
    """Sources, estimators and target models of the same settings, whatever they are called, are taken over."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first = small.begin(tmp_path / "first")
    small.run(first)
    variants = {
        "ten": {"stage": "tmt", "settings": {"model.transfer_fraction": 0.1}},
        "twenty": {"stage": "tmt", "settings": {"model.transfer_fraction": 0.2}},
    }
    second = small.begin(tmp_path / "second", variants=variants, pairs=[["gtav", "synthia"], ["cityscapes", "synthia"]])
    taken = reuse(second, first.folder)
    assert taken == ["source-gtav-s0", "estimator-gtav-synthia-superpixel-s0", "ten-gtav-synthia-s0"]
    results = {result.id: result for result in second.results()}
    assert results["ten-gtav-synthia-s0"].variant == "ten"
    before = {result.id: result for result in first.results()}["tmt_p0.1-gtav-synthia-s0"]
    assert results["ten-gtav-synthia-s0"].last == before.last
    assert small.run(second) == 0 and not [job for job in taken if attempts(second, job)]
    assert attempts(second, "twenty-gtav-synthia-s0") == 1 and reuse(second, first.folder) == []


def test_reuse_of_other_studies(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first = small.begin(tmp_path / "first")
    small.run(first, only="source-gtav-s0")
    with pytest.raises(
        ConfigError, match=r"from: .*first/out must have the study's threads, 2, got 1; leave --from out"
    ):
        reuse(small.begin(tmp_path / "second", threads=2), first.folder)
    with pytest.raises(ConfigError, match="holds no study"):
        reuse(first, tmp_path)
    settings = {**small.SMALL["settings"], "source.lr": 5e-4}
    assert reuse(small.begin(tmp_path / "second", settings=settings), first.folder) == []
