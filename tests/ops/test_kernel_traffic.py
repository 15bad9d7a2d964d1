"""The table of what kernels move: loops of a listing of machine code, figures and ratios, revisions to compare with."""

import subprocess

import counted
import emulated
import pytest
import torch

from bench import kernel_traffic, loops, sass

# A loop over tiles (line 9) that holds one over channels (line 4) with the products, and a loop that waits.
LISTING = """
.text.attend:
	//## File "/src/csrc/cuda/attend.cuh", line 8
        /*0000*/                   S2R R1, SR_TID.X ;
.L_x_0:
        /*0010*/                   LDGSTS.E.BYPASS.128 [R1], desc[UR4][R2.64] ;
.L_x_1:
	//## File "/src/csrc/cuda/ptx.cuh", line 70 inlined at "/src/csrc/cuda/attend.cuh", line 3
	//## File "/src/csrc/cuda/attend.cuh", line 3 inlined at "/src/csrc/cuda/attend.cuh", line 7
        /*0020*/                   LDSM.16.M88.4 R4, [R1] ;
        /*0030*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;
        /*0040*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;
	//## File "/src/csrc/cuda/attend.cuh", line 4
        /*0050*/                   VIADD R3, R3, 0x1 ;
        /*0060*/              @!P0 BRA `(.L_x_1) ;
        /*0070*/               @P2 BRA `(.L_x_3) ;
	//## File "/src/csrc/cuda/attend.cuh", line 9
        /*0080*/              @!UP1 BRA.U UP0, `(.L_x_0) ;
.L_x_3:
        /*0090*/                   EXIT ;
.L_x_2:
        /*00a0*/                   BRA `(.L_x_2);
"""


@pytest.fixture(scope="module")
def code():
    return loops.parsed(LISTING.splitlines())["attend"]


def test_loops_are_told_by_the_line_that_closes_them(code):
    found = [(loop.line, hex(loop.first), hex(loop.last)) for loop in loops.loops(code)]
    assert found == [("attend.cuh:9", "0x10", "0x80"), ("attend.cuh:4", "0x20", "0x60")]


def test_a_loop_does_not_count_what_is_in_a_loop_within_it(code):
    outer, inner = loops.loops(code)
    assert outer.counts == {"LDGSTS": 1, "BRA": 2}
    assert inner.counts == {"LDSM": 1, "HMMA": 2, "VIADD": 1, "BRA": 1}
    assert (inner.instructions, inner.integer, outer.integer) == (5, 1, 0)


def test_only_the_loop_with_the_products_is_told(code):
    assert loops.work_of(code) == "HMMA"
    assert [loop.line for loop in loops.working_loops(code)] == ["attend.cuh:4"]
    *_, row = kernel_traffic.loop_table({"before": code})
    assert row.startswith("| before: attend.cuh:4, 0x20 to 0x60 | 5 | 2.5 | 1 | 0 | 2 | 0 | 1 | ")


def test_what_returns_into_a_loop_from_behind_it_is_out_of_line():
    aside = "        /*0090*/                   EXIT ;\n.L_x_4:\n        /*0094*/   MUFU.EX2 R3, R3 ;\n"
    aside += "        /*0098*/                   BRA `(.L_x_5) ;"
    listing = LISTING.replace("        /*0090*/                   EXIT ;", aside).replace(
        "@P2 BRA `(.L_x_3)", "@P2 BRA `(.L_x_4)"
    )
    listing = listing.replace(
        '\t//## File "/src/csrc/cuda/attend.cuh", line 9', '.L_x_5:\n\t//## File "attend.cuh", line 9'
    )
    outer, inner = loops.loops(loops.parsed(listing.splitlines())["attend"])
    assert (outer.counts, outer.aside) == ({"LDGSTS": 1, "BRA": 2}, {"MUFU": 1, "BRA": 1})
    assert inner.counts["HMMA"] == 2 and not inner.aside


def test_a_kernel_without_loops_is_told_as_a_whole():
    listing = LISTING.replace("`(.L_x_1)", "`(.L_x_3)").replace("`(.L_x_0)", "`(.L_x_3)")
    (loop,) = loops.working_loops(loops.parsed(listing.splitlines())["attend"])
    assert (loop.line, loop.instructions, loop.counts["HMMA"]) == ("all", 11, 2)


def counts(wavefronts, kernel="void tmt::cuda::attend<float>(float*)"):
    load = counted.Site("shared load", ("attend.cuh:3",), 8, wavefronts, 8, 1024, 0)
    store = counted.Site("global store", ("attend.cuh:9",), 4, 0, 0, 512, 64)
    return counted.Counts(kernel, 2, 0, 16, (load, store))


def test_figures_are_sums_of_kernels_per_unit():
    found = kernel_traffic.figures([counts(16), counts(24)], units=4)
    assert (found["launches"], found["shared memory, wavefronts"], found["without bank conflicts"]) == (4, 10.0, 4.0)
    assert (found["global memory, bytes written"], found["in sectors, written"]) == (256, 1024)
    assert found["each sector once a launch, written"] == 256


def test_the_ratio_is_of_after_to_before():
    columns = {name: kernel_traffic.figures([counts(n)], 4) for name, n in (("before", 16), ("after", 8))}
    rows = list(kernel_traffic.figure_table(columns))
    assert rows[0] == "| | before | after | ratio |"
    assert "| shared memory, wavefronts | 4.00 | 2.00 | 0.50 |" in rows
    assert not any(row.startswith("| of matrix loads") for row in rows)  # nobody has any


def test_one_revision_alone_has_no_ratio():
    rows = list(kernel_traffic.figure_table({"present": kernel_traffic.figures([counts(8)], 4)}))
    assert rows[:2] == ["| | present |", "|---|--:|"]
    assert "| shared memory, wavefronts | 2.00 |" in rows


def test_a_kernel_of_one_revision_has_no_ratio():
    rows = list(kernel_traffic.figure_table({"before": {}, "after": kernel_traffic.figures([counts(8)], 4)}))
    assert "| shared memory, wavefronts |  | 2.00 |  |" in rows


def test_the_worst_site_comes_first():
    lines = list(kernel_traffic.site_lines([counts(10), counts(24, "void other(float*)"), counts(8)], 4, most=5))
    assert [line.split(",")[0] for line in lines] == ["- other", "- attend"]
    assert "4.00 wavefronts too many, 3.0 times as many as without conflicts: attend.cuh:3" in lines[0]


def test_before_may_be_a_folder_or_a_revision(tmp_path, monkeypatch):
    monkeypatch.setattr(sass, "ROOT", tmp_path)
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "library.cpp").write_text("old")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    (tmp_path / "csrc" / "library.cpp").write_text("changed")
    found = kernel_traffic.source_of("HEAD", tmp_path / "scratch")
    assert (found / "library.cpp").read_text() == "old"
    assert kernel_traffic.source_of(str(tmp_path / "csrc"), tmp_path) == tmp_path / "csrc"
    with pytest.raises(SystemExit, match="must be git's or a folder csrc, got no-such"):
        kernel_traffic.source_of("no-such", tmp_path)


def test_schemas_are_those_of_the_operators():
    found = {schema.partition("(")[0]: schema for schema in counted.schemas(emulated.CSRC)}
    assert list(found) and sorted(found) == emulated.operators()
    for name, schema in found.items():
        known = getattr(torch.ops.tmt, name).default._schema
        assert f"tmt::{torch._C.parse_schema(schema)}" == str(known)


def test_every_operator_is_called_and_given_all_that_it_asks_for():
    """A case that lacks an argument would fail only when the table is written."""
    known = {name: getattr(torch.ops.tmt, name).default._schema for name in emulated.operators()}
    results = {result.name for schema in known.values() for result in schema.returns}
    called = set()
    for case in kernel_traffic.cases():
        called |= set(case.operators)
        for name in case.operators:
            needed = {a.name for a in known[name].arguments if not a.has_default_value()}
            assert needed <= case.values.keys() | results
    assert called == known.keys()


def test_a_case_hands_results_on_by_name(monkeypatch):
    given = []

    def operator(**arguments):
        given.append(arguments)
        return (torch.ones(1), torch.zeros(1))

    text = "f(Tensor x, Tensor? sums) -> (Tensor sums, Tensor rest)"
    fake = type("Operator", (), {"_schema": torch._C.parse_schema(text), "__call__": lambda self, **a: operator(**a)})()
    operators = type("Operators", (), {"f": type("F", (), {"default": fake})})
    monkeypatch.setattr(counted, "count", lambda call, *_: call(operators) or [])
    case = kernel_traffic.Case("name", "pixel", 1, 3, {"x": torch.zeros(2), "unused": 1}, ("f", "f"))
    case.counts(emulated.CSRC, "tmt_counted")
    assert [sorted(arguments) for arguments in given] == [["x"], ["sums", "x"]]
