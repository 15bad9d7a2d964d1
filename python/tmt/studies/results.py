"""What finished jobs have measured: a JSON file a job while a study runs, one table of all of them to keep.

The table, `results.jsonl`, has one line a job: the content of its file, and what the report has found out about it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tmt.errors import ConfigError
from tmt.runtime.files import write_text
from tmt.studies.variant import Pair

TABLE = "results.jsonl"
FINDINGS = "findings"
"""Of a table's line: how far 1 - T of the job's estimator points at errors, as `tmt.report` keeps it."""
Row = dict[str, Any]
"""One job's results as they are kept."""


@dataclass(frozen=True)
class Result:
    """What a finished job measured. Scores are in percent, as in tmt.inference.metrics."""

    id: str
    kind: str
    """`source`, `estimator` or `target`."""
    source: str
    target: str | None
    variant: str
    """The variant's name in the study; of sources and estimators, the kind."""
    stage: str
    mask_rule: str | None
    seed: int
    last: dict[str, Any]
    """Scores of the last weights."""
    best: dict[str, Any]
    """Scores of the best evaluation during training, with its `step`."""
    seconds: float
    """Wall time of all attempts at the job that came to an end."""
    revision: str
    steps: int
    estimator: dict[str, Any] | None = None
    """Of an estimator: held-out accuracy, proxy A-distance and how transferability spreads."""
    curve: tuple[tuple[int, float], ...] = ()
    """Step and score of each evaluation during training."""
    allowed_fraction: tuple[float, ...] | None = None
    """Per layer, as logged last in training."""
    fallback_rate: tuple[float, ...] | None = None
    """Per layer, as logged last in training."""
    on: dict[str, dict[str, Any]] | None = None
    """Of a source model: its scores on every domain of the study, its own among them."""
    regions: str | None = None
    """How the regions that transferability is judged on are made; None where it plays no part."""
    needs: tuple[str, ...] = ()
    """Jobs whose models it started from."""

    @property
    def pair(self) -> Pair:
        """Source and target, empty where there is none."""
        return self.source, self.target or ""


def read_file(path: Path) -> Row:
    """One job's file. Raises ConfigError where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error


def read_table(folder: Path) -> dict[str, Row]:
    """The lines of a folder's table by job; none where there is no table. Raises ConfigError for a damaged line."""
    path = folder / TABLE
    if not path.is_file():
        return {}
    rows = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            rows[row["id"]] = row
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path}:{number}: is not a job's results ({error}); take the table from where it was made once more"
            ) from error
    return rows


def write_table(folder: Path, rows: Sequence[Row]) -> None:
    """Write a folder's table."""
    write_text(folder / TABLE, "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))


def to_result(row: Mapping[str, Any], place: Path, needs: tuple[str, ...]) -> Result:
    """A job's results. `needs`: those of the plan, for rows that do not say; `place`: the row's file, for messages.

    Raises ConfigError for a row that is damaged.
    """
    try:
        known = {item.name: row[item.name] for item in fields(Result) if item.name in row}
        for name in ("allowed_fraction", "fallback_rate"):
            known[name] = known.get(name) and tuple(known[name])
        curve = tuple((step, score) for step, score in row.get("curve", ()))
        return Result(**{**known, "curve": curve, "needs": tuple(row.get("needs", needs))})
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(place, error) from error


def _damaged(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path}: is not a job's results ({error}); remove it, and the study makes it anew")
