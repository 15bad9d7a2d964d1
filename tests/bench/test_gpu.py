"""bench/gpu.sh and bench/gpu.py rehearsed without a GPU: every step fails and succeeds, rows are kept, errors seen."""

import contextlib
import json
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import tmt_ext
from bench import gpu, gpu_contests, gpu_kernels, loaded, origin, peers, rows, tables, timing
from bench.device import Device
from bench.gpu_contests import Row, Sizes

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 8 * 60
STEPS = {
    "1": {
        "versions": "nvcc --version",
        "build": "build_ext",
        "loaded": "bench.loaded",
        "tests": "-m pytest",
        "own": "bench.gpu own",
        "ncu": "bench.gpu profile",
        "tables": "bench.rows",
    },
    "2": {
        "loaded": "bench.loaded",
        "memcheck": "--tool memcheck",
        "racecheck": "--tool racecheck",
        "eager": "bench.gpu eager",
        "compiled": "bench.gpu compiled",
        "tables": "bench.rows",
    },
}
NEEDED = {"build", "loaded"}  # without them the call ends

# In place of every tool of the machine, and of Python for all but the tables: fails where its command line has $FAIL in
# it, sleeps where it has $SLEEP, and keeps a row where rows are asked for.
STUB = """#!/usr/bin/env bash
line="$(basename "$0") $*"
if [ "$FAIL" ] && [[ "$line" == *"$FAIL"* ]]; then
  seq -f "before %g" 40; echo "kernel.cu(7): error: no such thing"; seq -f "after %g" 60; exit 3
fi
[ "$line" = "nvidia-smi --query-gpu=name --format=csv,noheader" ] && { echo "Some GPU 80GB"; exit; }
[ "$SLEEP" ] && [[ "$line" == *"$SLEEP"* ]] && exec sleep 20
case "$line" in
  *bench.rows*) exec "$REAL" "$@" ;;
  *"bench.gpu "*" --rows "*) echo '{"row": {"group": "g", "title": "row of '"$3"'", "step": "forward", "goals": [],
    "ms": {"tmt": {"median": 1.5}}, "MiB": {"tmt": 2}}}' | tr -d '\\n' >> "$5"; echo >> "$5" ;;
  *) echo "did $line" ;;
esac
"""
TOOLS = ("python3", "nvidia-smi", "nvcc", "ncu", "compute-sanitizer")


@pytest.fixture
def rehearse(tmp_path):
    """(call, FAIL=..., without=(tools)) -> the finished process, and what it kept, by the end of the file's name."""
    folder, out = tmp_path / "tools", tmp_path / "out"
    folder.mkdir()

    def run(*arguments, without=(), **environment):
        for tool in set(TOOLS) - set(without):
            (folder / tool).write_text(STUB)
            (folder / tool).chmod(stat.S_IRWXU)
        given = {"PATH": f"{folder}:/usr/bin:/bin", "CUDA_HOME": str(folder), "OUT": str(out), "PYTHON": "python3"}
        given |= {"REAL": sys.executable, "FAIL": "", "SLEEP": ""}
        command = ["bash", str(ROOT / "bench" / "gpu.sh"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env={**given, **environment})
        return done, {file.name.removeprefix("gpu-Some-GPU-80GB-"): file for file in out.glob("*")}

    return run


@pytest.mark.parametrize("call", STEPS)
def test_every_step_and_its_time(rehearse, call):
    done, _ = rehearse(call, "--dry-run")
    steps = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert {name: mark in command for name, _, command in steps for mark in [STEPS[call][name]]} == dict.fromkeys(
        STEPS[call], True
    )
    grace = int(re.search(r"--kill-after=(\d+)", (ROOT / "bench" / "gpu.sh").read_text()).group(1))
    assert sum(int(seconds) + grace for _, seconds, _ in steps) < SECONDS


@pytest.mark.parametrize("call", STEPS)
def test_when_all_goes_well(rehearse, call):
    done, kept = rehearse(call)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(kept) == {f"{call}.log", f"{call}.jsonl", f"{call}.json", f"{call}.md"}
    record = json.loads(kept[f"{call}.json"].read_text())
    measured = [name for name in STEPS[call] if name in gpu.ROWS]
    assert [row["title"] for row in record["rows"]] == [f"row of {name}" for name in measured]
    assert all(record["environment"][name].startswith("ok") for name in STEPS[call] if name != "tables")


@pytest.mark.parametrize(("call", "step"), [(call, step) for call in STEPS for step in STEPS[call]])
def test_when_a_step_fails(rehearse, call, step):
    """The call fails, the first error and its surroundings are seen, its whole output is kept; the other steps run."""
    done, kept = rehearse(call, FAIL=STEPS[call][step])
    assert done.returncode == 1
    seen = done.stdout
    assert "before 40\nkernel.cu(7): error: no such thing\nafter 1" in seen and f"== {step}: failed (3)" in seen
    assert "before 1\n" not in seen and "after 60" in seen
    assert "before 1\n" in kept[f"{call}.log"].read_text()
    steps = list(STEPS[call])
    left_out = [name for name in steps[steps.index(step) + 1 : -1]] if step in NEEDED else []
    assert [name for name in steps if f"== {name}: ok" in seen] == [n for n in steps if n not in (step, *left_out)]
    if step != "tables":
        assert json.loads(kept[f"{call}.json"].read_text())["environment"][step].startswith("failed (3)")


def test_a_step_out_of_time_ends_and_says_so(rehearse):
    done, kept = rehearse("2", SLEEP="bench.gpu eager", STEP_SECONDS="1")
    assert done.returncode == 1 and "== eager: failed: out of time" in done.stdout
    assert [row["title"] for row in json.loads(kept["2.json"].read_text())["rows"]] == ["row of compiled"]


def test_a_missing_sanitizer_is_named(rehearse):
    done, kept = rehearse("2", without=["compute-sanitizer"])
    assert json.loads(kept["2.json"].read_text())["environment"]["memcheck"] == "not run: no compute-sanitizer"
    assert "== racecheck: not run, no compute-sanitizer on PATH" in done.stdout


def test_no_gpu_is_an_error(rehearse):
    done, kept = rehearse("1", FAIL="nvidia-smi")
    assert done.returncode == 1 and "no GPU found" in done.stderr and "no such thing" in done.stderr and not kept


def test_a_call_must_be_named(rehearse):
    done, _ = rehearse()
    assert done.returncode == 2 and "bench/gpu.sh 1" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="for a machine without a GPU")
def test_gpu_tests_that_cannot_run_fail_where_a_gpu_is_required():
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/ops/test_cuda.py", "-k", "float64"]
    environment = {**os.environ, "TMT_REQUIRE_GPU": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "1 failed" in done.stdout


def test_gpu_tests_are_all_that_need_a_gpu_and_only_those():
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/ops", "--collect-only"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    assert all(
        name in names for name in ("cuda.py", "superpixel.py::test_on_a_gpu", "attention.py::test_attention[gpu")
    )
    assert "emulated" not in names


# ---- bench/gpu.py on the CPU ----------------------------------------------------------------------------------------

SMALL = Sizes((1, 8, 16, 16, 8), (1, 8, 8, 8, 4), (1, 128), ((1, 32),), (1, (64, 64)))


def tick(run):
    run()
    return 2.0


def device(graph=lambda run: run):
    return Device("cpu", tick, lambda run: 1.0, graph, contextlib.nullcontext)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    monkeypatch.setattr(peers, "compiled_unfold", lambda: peers.superpixel_unfold)
    monkeypatch.setattr(peers, "compiled_windows", lambda: peers.superpixel_windows)
    monkeypatch.setattr(peers, "attention_flex", peers.attention_sdpa)
    monkeypatch.setattr(peers, "compiled_deformable", lambda: peers.deformable_transformers)


@pytest.mark.parametrize("what", gpu.ROWS)
def test_every_row_is_kept_as_it_is_measured(quick, tmp_path, what):
    file = tmp_path / "rows.jsonl"
    assert gpu.run(what, file, time.perf_counter() + 600, device(), SMALL) == 0
    record = rows.read(file)
    planned = list(gpu.ROWS[what](device(), SMALL))
    assert [(row["title"], row["step"]) for row in record["rows"]] == [(row.title, row.step) for row in planned]
    assert all(row["ms"]["tmt"]["median"] == 2.0 and "errors" not in row for row in record["rows"])
    if what == "own":
        assert all(row["ms"].keys() == {"tmt", "graph"} for row in record["rows"])
        assert record["environment"]["same bits twice"] == "superpixel yes, attention yes"
    rows_of = re.compile(r"^\| (?:superpixel|attention|deformable attention) \(?", re.MULTILINE)
    assert len(rows_of.findall(tables.document(record))) == len(planned)


def failing(calls, row=0):
    def make():
        if row:
            raise RuntimeError("no kernel | here\nand more")
        return calls

    return Row("group", "title", "forward", make)


def broken():
    raise RuntimeError("out of memory | at once\nand more")


def test_a_failing_row_says_so_and_costs_no_other(quick, tmp_path, monkeypatch):
    good = {"tmt": int, "peer": int}
    every = [failing({**good, "tmt": broken}), failing({}, 1), failing({**good, "peer": broken}), failing(good)]
    monkeypatch.setitem(gpu.ROWS, "own", lambda *_: every)
    monkeypatch.setattr(gpu_kernels, "repeats", lambda *_: broken())
    file = tmp_path / "rows.jsonl"
    assert gpu.run("own", file, time.perf_counter() + 600, device(), SMALL) == 2
    record = rows.read(file)
    memory = "RuntimeError: out of memory / at once"
    assert [row.get("errors") for row in record["rows"]] == [
        {"tmt": memory},
        {"tmt": "RuntimeError: no kernel / here"},
        {"peer": memory},
        None,
    ]
    assert record["environment"]["same bits twice"] == f"not known: {memory}"
    page = tables.document(record)
    assert f"| title | forward | **failed** | | tmt failed: {memory} | |" in page
    assert f"| title | forward | 2 | 1 | peer failed: {memory} |  |" in page
    assert f"Failed:\n- title, forward: tmt failed: {memory}" in page


def test_a_graph_that_cannot_be_captured_is_a_failure_beside_the_eager_figure(quick, tmp_path):
    file = tmp_path / "rows.jsonl"
    count = len(list(gpu_contests.own(device(), SMALL)))
    assert gpu.run("own", file, time.perf_counter() + 600, device(lambda run: broken), SMALL) == count
    assert all(row["ms"].keys() == {"tmt"} and "graph" in row["errors"] for row in rows.read(file)["rows"])


def test_rows_without_time_are_named(quick, tmp_path):
    assert gpu.run("eager", tmp_path / "rows.jsonl", 0.0, device(), SMALL) > 0
    assert {row["errors"]["tmt"] for row in rows.read(tmp_path / "rows.jsonl")["rows"]} == {"no time left"}


def test_a_line_cut_in_the_middle_is_left_out(tmp_path):
    file = tmp_path / "rows.jsonl"
    rows.keep(file, environment={"device": "some"})
    rows.keep(file, row={"title": "one"})
    file.write_text(file.read_text() + '{"row": {"ms": {"tmt": {}')
    assert rows.read(file) == {"environment": {"device": "some"}, "rows": [{"title": "one"}]}


def test_limits_are_judged_alone_and_ratios_against_peers():
    goals = {what: [goal for row in make(device(), Sizes()) for goal in row.goals] for what, make in gpu.ROWS.items()}
    assert all(goals.values())
    assert all(goal.most for goal in goals["own"])
    assert not any(goal.most for goal in goals["eager"] + goals["compiled"])


def test_what_tools_watch_runs():
    gpu_kernels.once(device(), SMALL)
    gpu_kernels.exercise("cpu", [((1, 5, 9, 10), 4)])


def test_ncu_is_asked_for_kernels_that_exist():
    names = re.fullmatch(r"regex:\^\((.*)\)\$", gpu_kernels.main_kernels()).group(1).split("|")
    sources = "".join(file.read_text() for file in (ROOT / "csrc").rglob("*.cu*"))
    assert len(names) >= 3 and all(re.search(rf"\b{name}\(", sources) for name in names)


def test_no_git_is_no_error(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert origin._revision() == ""


def test_tables_need_no_torch():
    code = "import sys; from bench import rows; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "False\n"


def test_what_says_that_kernels_are_loaded_fails_where_they_are_not():
    done = subprocess.run([sys.executable, "-m", "bench.loaded"], cwd=ROOT, capture_output=True, text=True)
    if tmt_ext.build_info()["cuda_loaded"]:
        assert done.returncode == 0 and "superpixel_backward" in done.stdout
    else:
        assert done.returncode == 1 and "cuda_loaded is False" in done.stderr
    assert "superpixel_backward" in loaded.operators()
    assert loaded.without_cuda_kernels(["one", "two"], lambda name, key: (name, key) == ("tmt::one", "CUDA")) == ["two"]
