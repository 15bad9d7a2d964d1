"""Markdown tables that also read well as plain text."""

from collections.abc import Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table with columns padded to one width; the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    ruler = [("-" if i == 0 else "-:").rjust(width, "-") for i, width in enumerate(widths)]
    return "\n".join("| " + " | ".join(_pad(row, widths)) + " |" for row in (header, ruler, *rows))


def _pad(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    cells = zip(row, widths, strict=True)
    return [cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(cells)]
