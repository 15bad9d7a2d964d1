"""The table of a run's results, as JSON and as markdown."""

from dataclasses import dataclass
from typing import Any

from tmt.inference.evaluation import EvaluationValues
from tmt.inference.metrics import HEADLINES
from tmt.runtime.markdown import markdown_table
from tmt.training.segmentation import StepScores


@dataclass(frozen=True)
class Row:
    """One model's scores on one domain."""

    method: str
    domain: str
    mask_rule: str
    last: EvaluationValues
    """Scores of the last weights."""
    best: StepScores
    """Scores of the weights with the best evaluation during training, with their `step`."""


def rows_of(results: dict[str, dict[str, Any]]) -> list[Row]:
    """The rows of finished segmentation stages, by stage name: the source model on both domains, then the methods."""
    rows = []
    for result in results.values():
        common = (result["method"], result["domain"], result["mask_rule"])
        rows.append(Row(*common, result["last"], result["best"]))
        if "target" in result:
            target = result["target"]
            rows.append(Row(result["method"], target["domain"], result["mask_rule"], target["last"], target["best"]))
    return rows


def to_json(rows: list[Row]) -> list[dict[str, Any]]:
    """The rows as JSON values."""
    return [vars(row) for row in rows]


def to_markdown(rows: list[Row]) -> str:
    """The rows as a table: last evaluation first, best mIoU and its step beside it."""
    titles = [title for _, title in HEADLINES]
    header = ("method", "evaluated on", "mask rule", *titles, "best mIoU", "at step")
    return markdown_table(header, [_cells(row) for row in rows])


def _cells(row: Row) -> tuple[str, ...]:
    last = [_number(row.last[name]) for name, _ in HEADLINES]
    return row.method, row.domain, row.mask_rule, *last, _number(row.best["miou"]), str(row.best["step"])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
