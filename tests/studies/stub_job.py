"""Stands in for a training: leaves the files that a job leaves, step by step, after what the test has ordered.

Called as `python stub_job.py CONFIG`. The file `orders.json` in the study's folder maps patterns of job ids to lists of
deeds, one an attempt: `fail`, `kill`, `memory`, `disk`, `damage` (leaves a folder that must be made anew), `refused N`
(the system's error N), `sleep`.
"""

import json
import os
import resource
import signal
import sys
import time
from fnmatch import fnmatch
from pathlib import Path

import yaml

from tmt.errors import STATE_ERROR, USER_ERROR


def deed(folder: Path) -> str:
    """What this attempt shall do, of those ordered for the job."""
    attempts = folder.parent.parent / "attempts" / folder.name
    attempts.parent.mkdir(exist_ok=True)
    count = len(attempts.read_text()) if attempts.exists() else 0
    with attempts.open("a") as file:
        file.write("x")
    orders = folder.parent.parent / "orders.json"
    for pattern, deeds in (json.loads(orders.read_text()) if orders.exists() else {}).items():
        if fnmatch(folder.name, pattern) and count < len(deeds):
            return deeds[count]
    return "train"


def act(what: str, folder: Path) -> None:
    """The deeds that end an attempt."""
    if what == "fail":
        print("error: data.source_root: folder is not there; mend it", file=sys.stderr)
        sys.exit(USER_ERROR)
    if what.startswith("refused"):
        (folder / "half").write_text("done so far")
        print(f"error: {folder}/checkpoint.pt: {os.strerror(int(what.split()[1]))}; mend it", file=sys.stderr)
        sys.exit(USER_ERROR)
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "memory":
        resource.setrlimit(resource.RLIMIT_AS, (200_000_000, 200_000_000))
        bytearray(10_000_000_000)
    if what == "disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with (folder / "checkpoint.pt").open("wb", buffering=0) as file:
            while True:
                file.write(b"0" * 999)
    if what == "sleep":
        time.sleep(600)
    if what == "damage" or (folder / "damaged").exists():
        (folder / "damaged").touch()
        print(f"error: {folder}/checkpoint.pt: cannot be read (bad file); remove its folder", file=sys.stderr)
        sys.exit(STATE_ERROR)


def train(config: dict, folder: Path, stage: str) -> None:
    """The files of a finished stage; the score is a function of the settings and of what was trained before."""
    made = folder / stage
    made.mkdir(exist_ok=True)
    given = config["source_model"]
    start = json.loads((Path(given) / "weights").read_text()) if given else 0
    score = (start + sum(map(ord, f"{stage} {config['data']['target']} {config['seed']}"))) % 97
    lines = [
        {"step": 1, "allowed_fraction": [0.5], "fallback_rate": [0.1]},
        {"step": 2, "evaluation": {"score": score}},
    ]
    (made / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (made / "checkpoint.pt").write_text("0" * 1000)
    (made / "best").mkdir(exist_ok=True)
    (made / "best" / "weights").write_text("1")
    if stage == "estimator":
        (made / "estimator.safetensors").write_text(str(score))
    else:
        (made / "model").mkdir(exist_ok=True)
        (made / "model" / "weights").write_text(str(score))
    (folder / "on.json").write_text(json.dumps({"gtav": {"miou": score}}))
    (folder / "run.json").write_text(json.dumps({"revision": "abc"}))
    last = {"step": 2, "score": score, "miou": score, "accuracy": 0.9}
    done = {"last": last, "best": last, "mask_rule": "foreground"}
    (made / "done.json").write_text(json.dumps(done))


def main() -> None:
    config = yaml.safe_load(Path(sys.argv[1]).read_text())
    folder = Path(config["out"])
    print(f"at work on {folder.name} with {os.environ['OMP_NUM_THREADS']} threads")
    act(deed(folder), folder)
    train(config, folder, config["stages"][0])


if __name__ == "__main__":
    main()
