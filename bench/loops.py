"""The loops of a kernel's machine code, from a listing of nvdisasm.

A loop is all code from which a branch back to its first instruction is reached without passing that: out of line, too,
where compilers put what they take to be rare. What belongs to a loop is what belongs to no loop within it.
"""

import bisect
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

WORK = ("HMMA", "FFMA")  # the first that a kernel has is what its loops are found by
LEAST = 0.1  # of this work in all loops: those with less are not told
PRIMITIVES = ("ptx.cuh:", "intrinsics.cuh:", "cuda_", "sm_", "device_")  # files of single instructions
INTEGER = re.compile(
    r"U?(I(?!2F)[A-Z]+3?|LEA|LOP3|PLOP3|SHF|SEL|PRMT|POPC|FLO|VIADD\w*|VIMNMX\w*|R2P|P2R|MOV|R2UR|BREV|SGXT)"
)
INSTRUCTION = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+ )?([A-Z][A-Z0-9]*)(.*);")
BRANCHES, ENDS = ("BRA", "BRX", "JMP", "JMX"), ("EXIT", "RET", "BRX", "JMX")


class Instruction(NamedTuple):
    address: int
    name: str  # without modifiers
    targets: tuple[str, ...]  # labels that it may go to
    goes_on: bool  # perhaps to the instruction that follows
    line: str  # file:line of the kernels' source, what is inlined first


@dataclass(frozen=True)
class Code:
    """Of a kernel."""

    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # their addresses


@dataclass(frozen=True)
class Loop:
    """A loop of a kernel."""

    first: int  # address
    last: int  # of the branch that closes what is in line
    line: str  # of this branch
    counts: Counter[str]  # instructions in line, by name
    aside: Counter[str]  # instructions out of line

    @property
    def instructions(self) -> int:
        return self.counts.total()

    @property
    def integer(self) -> int:
        """Instructions in line on integers, addresses and predicates."""
        return sum(n for name, n in self.counts.items() if INTEGER.fullmatch(name))


def parsed(lines: Iterable[str]) -> dict[str, Code]:
    """The kernels in a listing by their symbols: sections, labels, comments with the source's lines, instructions."""
    found: dict[str, Code] = {}
    code, labels, chain, line = Code(), [], [], ""
    for text in lines:
        if match := re.match(r"\.text\.(\w+):", text):
            code = found[match[1]] = Code()
        elif match := re.match(r"(\.L_x_\d+):", text):
            labels.append(match[1])
        elif match := re.match(r'\s+//## File "(.+?)", line (\d+)', text):
            chain.append(f"{Path(match[1]).name}:{match[2]}")
        elif match := INSTRUCTION.match(text):
            line = next((own for own in chain if not own.startswith(PRIMITIVES)), line)
            code.instructions.append(_instruction(match, line))
            code.labels.update(dict.fromkeys(labels, code.instructions[-1].address))
            labels, chain = [], []
    return found


def _instruction(match: re.Match, line: str) -> Instruction:
    address, predicate, name, operands = match.groups()
    targets = re.findall(r"\.L_x_\d+", operands) if name in BRANCHES else []
    condition = predicate or re.match(r"\S*\s+!?U?P\w+,", operands)  # BRA P1, target
    goes_on = bool(condition) or name not in (*BRANCHES, *ENDS)
    return Instruction(int(address, 16), name, tuple(targets), goes_on, line)


# ---- the graph of its blocks ----------------------------------------------------------------------------------------


class Graph:
    """Blocks of instructions that run one after the other; by number, in the order of their addresses."""

    def __init__(self, code: Code):
        starts = {code.instructions[0].address}
        for before, i in zip(code.instructions, code.instructions[1:], strict=False):
            if before.targets or not before.goes_on:
                starts.add(i.address)
        starts |= {code.labels[target] for i in code.instructions for target in i.targets}
        self.starts = sorted(starts)
        self.blocks: list[list[Instruction]] = [[] for _ in self.starts]
        for i in code.instructions:
            self.blocks[bisect.bisect_right(self.starts, i.address) - 1].append(i)
        self.successors = [self._successors(n, code) for n in range(len(self.blocks))]
        self.predecessors = _reversed(self.successors)
        self.parents = _dominators(self.successors, self.predecessors)

    def _successors(self, number: int, code: Code) -> list[int]:
        last = self.blocks[number][-1]
        found = [bisect.bisect_left(self.starts, code.labels[target]) for target in last.targets]
        return found + [number + 1] if last.goes_on and number + 1 < len(self.blocks) else found

    def dominates(self, above: int, block: int) -> bool:
        """Whether every way to `block` passes `above`."""
        while block > 0 and block != above:
            block = self.parents[block]
        return block == above

    def loops(self) -> dict[int, tuple[list[int], set[int]]]:
        """{first block: (blocks that branch back to it, all blocks of the loop)}."""
        found: dict[int, tuple[list[int], set[int]]] = {}
        for block in self.parents:
            for first in self.successors[block]:
                if self.dominates(first, block):
                    backs, body = found.setdefault(first, ([], {first}))
                    backs.append(block)
                    self._add_ways(body, block)
        return found

    def _add_ways(self, body: set[int], block: int) -> None:
        """Adds the blocks from which `block` is reached."""
        left = [block]
        while left:
            block = left.pop()
            if block not in body:
                body.add(block)
                left += [n for n in self.predecessors[block] if n in self.parents]


def _reversed(successors: list[list[int]]) -> list[list[int]]:
    found = [[] for _ in successors]
    for block, following in enumerate(successors):
        for n in following:
            found[n].append(block)
    return found


def _dominators(successors: list[list[int]], predecessors: list[list[int]]) -> dict[int, int]:
    """{block: the last block that every way to it passes}, of those that are reached (Cooper, Harvey and Kennedy)."""
    order = _postorder(successors)
    rank = {block: i for i, block in enumerate(order)}
    parents, changed = {0: 0}, True
    while changed:
        changed = False
        for block in reversed(order[:-1]):
            parent, *others = [n for n in predecessors[block] if n in parents]
            for other in others:
                while parent != other:
                    parent, other = sorted((parent, other), key=rank.get)
                    parent = parents[parent]
            changed |= parents.get(block) != parent
            parents[block] = parent
    return parents


def _postorder(successors: list[list[int]]) -> list[int]:
    order, seen, stack = [], {0}, [(0, iter(successors[0]))]
    while stack:
        block, rest = stack[-1]
        following = next((n for n in rest if n not in seen), None)
        if following is None:
            order.append(stack.pop()[0])
        else:
            seen.add(following)
            stack.append((following, iter(successors[following])))
    return order


# ---- loops ----------------------------------------------------------------------------------------------------------


def loops(code: Code) -> list[Loop]:
    """Every loop of a kernel, in the order of their first instructions."""
    graph = Graph(code)
    every = graph.loops()
    found = []
    for first, (backs, body) in sorted(every.items()):
        inner = set().union(*(other for start, (_, other) in every.items() if start != first and start in body))
        own = [i for block in sorted(body - inner) for i in graph.blocks[block]]
        close = min((graph.blocks[back][-1] for back in backs), key=lambda i: _place(i, own))
        line = [i.name for i in own if graph.starts[first] <= i.address <= close.address]
        every_name = Counter(i.name for i in own)
        found.append(Loop(graph.starts[first], close.address, close.line, Counter(line), every_name - Counter(line)))
    return found


def _place(close: Instruction, own: list[Instruction]) -> tuple[int, int]:
    """The branch before which most of the work is closes what is in line; the first of these."""
    work = sum(i.name in WORK for i in own if i.address <= close.address)
    total = sum(i.name in WORK for i in own)
    return (0 if 2 * work >= total else 1, close.address)


def work_of(code: Code) -> str | None:
    """What the kernel's work is counted by: HMMA, else FFMA, else nothing."""
    names = {i.name for i in code.instructions}
    return next((name for name in WORK if name in names), None)


def working_loops(code: Code) -> list[Loop]:
    """The loops that hold the kernel's work, all code as one where no loop does."""
    work, every = work_of(code), loops(code)
    total = sum(loop.counts[work] for loop in every)
    if work is None or total == 0:
        counts = Counter(i.name for i in code.instructions)
        return [Loop(code.instructions[0].address, code.instructions[-1].address, "all", counts, Counter())]
    return [loop for loop in every if loop.counts[work] >= LEAST * total]
