"""One table in four forms: Markdown, CSV, LaTeX and HTML."""

import csv
import html
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tmt.runtime.markdown import markdown_table

MISSING = "missing"
"""What stands where a result is not there; never a zero."""
MINUS = "\N{MINUS SIGN}"
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "→": r"$\rightarrow$", "±": r"$\pm$", "−": r"$-$", "κ": r"$\kappa$", "λ": r"$\lambda$", "ρ": r"$\rho$", "–": "--",
    "≤": r"$\leq$", "×": r"$\times$",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Text in rows and columns."""

    name: str
    """Of its files, without ending."""
    title: str
    """What it is about, in a few words."""
    caption: str
    """What the numbers are: unit, n, which evaluation."""
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()
    """(row, column) of cells that stand out."""

    def to_markdown(self) -> str:
        """The caption and the table."""
        rows = [
            [f"**{cell}**" if (y, x) in self.best else cell.replace("|", "\\|") for x, cell in enumerate(row)]
            for y, row in enumerate(self.rows)
        ]
        header = [cell.replace("|", "\\|") for cell in self.header]
        return f"### {self.title}\n\n{self.caption}\n\n{markdown_table(header, rows)}"

    def to_csv(self) -> str:
        """Header and rows (RFC 4180), the caption left out."""
        return to_csv(self.header, self.rows)

    def to_latex(self) -> str:
        """A `table` environment; needs the package booktabs."""
        body = [" & ".join(self._latex_cell(y, x) for x in range(len(row))) for y, row in enumerate(self.rows)]
        caption = latex(f"{self.title}. {self.caption}")
        columns = "l" + "r" * (len(self.header) - 1)
        lines = [
            r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", rf"\label{{tab:{self.label}}}",
            rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(map(latex, self.header)) + r" \\", r"\midrule",
            *[line + r" \\" for line in body], r"\bottomrule", r"\end{tabular}", r"\end{table}",
        ]  # fmt: skip
        return "\n".join(lines) + "\n"

    @property
    def label(self) -> str:
        """The name, of letters, digits and hyphens only."""
        return re.sub(r"[^A-Za-z0-9]+", "-", self.name).strip("-")

    def _latex_cell(self, y: int, x: int) -> str:
        text = latex(self.rows[y][x])
        return rf"\textbf{{{text}}}" if (y, x) in self.best else text

    def to_html(self) -> str:
        """A `figure` whose table has a box of its own that scrolls sideways, so that the page never does."""
        title = html.escape(self.title)
        head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in self.header)
        body = "\n".join(f"<tr>{self._html_row(y)}</tr>" for y in range(len(self.rows)))
        return (
            f'<figure class="table">\n<div class="scroll" tabindex="0" role="region" aria-label="{title}">\n'
            f"<table>\n<caption>{title}</caption>\n<thead><tr>{head}</tr></thead>\n"
            f"<tbody>\n{body}\n</tbody>\n</table>\n</div>\n"
            f"<figcaption>{html.escape(self.caption)}</figcaption>\n</figure>"
        )

    def _html_row(self, y: int) -> str:
        first, *others = self.rows[y]
        cells = [f'<th scope="row">{html.escape(first)}</th>']
        for x, cell in enumerate(others, 1):
            kind = "missing" if cell == MISSING else "best" if (y, x) in self.best else ""
            cells.append(f'<td class="{kind}">{html.escape(cell)}</td>' if kind else f"<td>{html.escape(cell)}</td>")
        return "".join(cells)


def to_csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Header and rows (RFC 4180); None and nan are empty fields."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows([["" if _absent(value) else value for value in row] for row in rows])
    return text.getvalue()


def _absent(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def latex(text: str) -> str:
    """Text as LaTeX shows it."""
    return "".join(LATEX.get(character, character) for character in text)


def number(value: float, digits: int = 2) -> str:
    """A number, or `missing` for nan."""
    return MISSING if math.isnan(value) else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign, or `missing` for nan."""
    return MISSING if math.isnan(value) else f"{value:+.{digits}f}".replace("-", MINUS)


def interval(low: float, high: float, digits: int = 2) -> str:
    """A confidence interval; an en dash where there is none."""
    return "–" if math.isnan(low) else f"{signed(low, digits)} to {signed(high, digits)}"


def p_value(p: float) -> str:
    """A p value to three digits; an en dash where there is none."""
    if math.isnan(p):
        return "–"
    return f"{p:.3f}" if p >= 0.001 else "<0.001"
