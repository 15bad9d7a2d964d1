"""README.md and docs/: every code block runs, one after another, a page's in a folder; every link leads somewhere.

Commands run as they are printed, with options behind them that cut the training short. A block that is not run has a
line before it that says why: `<!-- not run: REASON -->`. Text that is no code is a block of kind `text`.
"""

import ast
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.helpers import runs

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FIT = "steps=2 batch_size=2 warmup=0 log_every=1 eval_every=2"
SHORT = {
    "tmt.train": [
        *(f"--{stage}.{option}" for stage in ("source", "target") for option in FIT.split()),
        *(f"--estimator.{option}" for option in ["steps=2", "batch_size=2", "eval_images=2"]),
        *(f"--data.synthetic_{option}" for option in ["source=4", "target=50", "val=2"]),
        "--pictures=1",
        "--device=cpu",
    ]
}
"""What is added to a command."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    kind: str
    code: str
    reason: str | None
    """Why it is not run."""


def pages() -> list[Path]:
    """README, then the pages in the order of the navigation."""

    def paths(item: object) -> list[str]:
        if isinstance(item, str):
            return [item]
        values = item.values() if isinstance(item, dict) else item
        return [path for value in values for path in paths(value)]

    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    return [ROOT / "README.md", *(DOCS / path for path in paths(nav))]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^(?:<!-- not run: ([^\n]+) -->\n)?```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    name = str(page.relative_to(ROOT))
    return [Block(name, text.count("\n", 0, one.start()) + 1, one[2], one[3], one[1]) for one in found]


PAGES = pages()
RUN = [page for page in PAGES if any(block.kind in ("bash", "python") and not block.reason for block in blocks(page))]


OTHERS = ("CONTRIBUTING.md", "bench/README.md", "results/README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_are_of_known_kinds_and_few_are_not_run(page: Path) -> None:
    text, found = page.read_text(encoding="utf-8"), blocks(page)
    assert text.count("```") == 2 * len(found), "a fence that no block was read from"
    assert {block.kind for block in found} <= {"bash", "python", "text", "bibtex", "yaml", "csv"}
    assert all(len(block.reason) > 5 for block in found if block.reason is not None)


def test_every_page_is_in_the_navigation() -> None:
    assert {page for page in PAGES if page != ROOT / "README.md"} == set(DOCS.rglob("*.md"))
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "bench/README.md"], ids=lambda page: page.name
)
def test_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_blocks_run(page: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    (tmp_path / "KEPT").symlink_to(ROOT / "results")
    code = runs.finish(runs.start(run_page, page, tmp_path, log), seconds=400)
    assert code == 0, "\n".join(log.read_text().splitlines()[-30:])


def run_page(page: Path, folder: Path, log: Path) -> int:
    """Run a page's blocks in this process; what one of Python defines is there in the next."""
    os.chdir(folder)
    runs.redirect(log)
    space: dict[str, object] = {"__name__": "__page__"}
    for block in blocks(page):
        if block.reason is None and block.kind == "python":
            exec(compile(ast.parse(block.code), f"{block.page}, block of line {block.line}", "exec"), space)
        if block.reason is None and block.kind == "bash":
            for command in block.code.replace("\\\n", " ").splitlines():
                if code := run_command(command):
                    print(f"{block.page}, block of line {block.line}: {command}: exit code {code}")
                    return code
    return 0


def run_command(command: str) -> int:
    """Run one command in a process forked from this one."""
    words = shlex.split(command, comments=True)
    if not words:
        return 0
    assert words[:2] == ["python", "-m"], f"{command}: only python -m is run; mark the block `not run`"
    module, arguments = words[2], words[3:]
    if (child := os.fork()) == 0:
        os._exit(_call(module, arguments))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _call(module: str, arguments: list[str]) -> int:
    """The exit code of a module's entry point, called as from a shell."""
    import runpy
    import sys

    sys.argv = [module, *arguments, *([] if "--print_config" in arguments else SHORT.get(module, []))]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0
