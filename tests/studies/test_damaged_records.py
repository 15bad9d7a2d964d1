"""Jobs whose records a disk has spoilt have failed, for a reason that names the file; the study goes on."""

import sys
from pathlib import Path

import pytest

from tests.studies import small
from tmt.studies.jobs import Job

TMT = "tmt-gtav-cityscapes-s0"
SPOILT = [
    ("tmt/done.json", "{", "done.json: is damaged ("),
    ("tmt/done.json", "{}", "left no readable results ('last')"),
    ("tmt/metrics.jsonl", '{"step": 1}\nstep\n', "metrics.jsonl:2: must be a JSON object, got 'step'"),
    ("tmt/metrics.jsonl", '{"step": 1, "evaluation": 3}\n', "left no readable results ("),
    ("run.json", "[1]", "run.json: is damaged (a JSON object, got list)"),
]


@pytest.mark.parametrize(("file", "content", "words"), SPOILT, ids=range(len(SPOILT)))
def test_a_job_whose_records_are_damaged(file: str, content: str, words: str, tmp_path: Path) -> None:
    study = small.begin(tmp_path, pairs=[["gtav", "cityscapes"]])

    def commands(job: Job) -> list[list[str]]:
        made = [*small.STUB, str(job.folder / "config.yaml")]
        spoil = f"import pathlib; pathlib.Path({str(job.folder / file)!r}).write_text({content!r})"
        return [made, [sys.executable, "-c", spoil]] if job.id == TMT else [made]

    assert small.run(study, commands=commands, retries=0) == 1
    assert words in study.failure(TMT) and "\n" not in study.failure(TMT)
    with (study.job_folder(TMT) / "attempts.jsonl").open("a") as record:
        record.write('{"code": 1, "seco}\n{"other": 1}\n')
    assert study.states()[TMT] == "failed" and "(1 attempt; " in study.failure(TMT)
