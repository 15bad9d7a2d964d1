"""The tables of a made-up study, whose numbers are known."""

import csv
import io
import math
import re

import pytest

from tests.report.made_up import VARIANTS, make_study, plain_score
from tmt.errors import ConfigError, DataError
from tmt.report import comparisons, tables
from tmt.report.formats import MISSING, Table, latex, number, signed
from tmt.report.scores import missing, open_study, planned, short


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return open_study(make_study(tmp_path_factory.mktemp("study")))


def cell(table: Table, row: str, column: str) -> str:
    x = table.header.index(column)
    return next(line[x] for line in table.rows if line[0] == row)


def by_name(tables: list[Table], name: str) -> Table:
    return next(table for table in tables if table.name == name)


def test_variants_have_their_roles(study):
    assert {c.name: c.role for c in study.variants} == {
        "linear": "baseline", "full": "baseline", "tmt": "method", "tmt_foreground": "method", "wo_acte": "ablation",
        "tmt_p0.1": "fraction", "tmt_p0.5": "fraction",
    }  # fmt: skip
    assert study.variant("tmt").mask_rule == "uncertain"
    assert study.variant("full").mask_rule == "foreground"


def test_table1_means_deviations_and_counts(study):
    """bdd100k is the second domain, cityscapes the first target of it: pair 4, so Full is 44 + 0.5 seed."""
    table = by_name(tables.method_tables(study), "table1-miou-last")
    assert cell(table, "bdd100k → cityscapes", "Full") == "44.50 ± 0.50 (3)"
    assert cell(table, "bdd100k → cityscapes", "Linear") == "36.00 (1)"
    # 44 + 0.5 + (0, 0.5, 1) + (0, 0.3, -0.3): 44.5, 45.3, 45.2
    assert cell(table, "bdd100k → cityscapes", "TMT (uncertain)") == "45.00 ± 0.44 (3)"
    assert cell(table, "bdd100k → cityscapes", "source only") == "20.00 ± 0.00 (3)"
    assert cell(table, "mean over 20 of 20 pairs", "Full") == "50.00"
    assert (4, table.header.index("TMT (uncertain)")) in table.best


def test_every_score_and_evaluation_has_a_table1(study):
    found = tables.method_tables(study)
    assert [table.name for table in found] == [
        f"table1-{metric}-{which}" for which in ("last", "best") for metric in ("miou", "fwiou", "macc")
    ]
    best = by_name(found, "table1-miou-best")
    assert cell(best, "bdd100k → cityscapes", "Full") == "45.50 ± 0.50 (3)"
    assert "source only" not in best.header


def test_captions_say_what_the_numbers_are(study):
    for table in tables.method_tables(study) + tables.ablation_tables(study):
        assert "percent" in table.caption
        assert "synthetic" in table.caption
        assert "evaluation" in table.caption
        assert "made-up-revi" in table.caption
        assert "uncertain" in table.caption


def test_table2_has_a_row_a_variant(study):
    table = by_name(tables.ablation_tables(study), "table2-miou-last")
    assert [row[0] for row in table.rows][-1] == "w/o ACTE (uncertain)"
    assert cell(table, "w/o ACTE (uncertain)", "cityscapes → bdd100k") == "40.00 (1)"


def test_figure7_is_in_order_of_the_share(study):
    table = by_name(tables.fraction_tables(study), "figure7-uncertain-last")
    assert table.header[1:] == ("p_T = 0.1", "p_T = 0.3", "p_T = 0.5")
    assert table.rows[0][1:] == ("40.00 (1)", "40.60 ± 0.44 (3)", "40.00 (1)")


def test_tests_of_the_two_rules_are_kept_apart(study):
    found = comparisons.paired_tables(study)
    uncertain = by_name(found, "tests-over-pairs-uncertain-miou-last")
    # Over pairs the mean gain is (1 + ... + 20) / 20 / 10 = 1.05; over the one seed of Linear 9.05.
    assert cell(uncertain, "TMT (uncertain) − Full", "mean") == "+1.05"
    assert cell(uncertain, "TMT (uncertain) − Linear", "mean") == "+9.05"
    assert cell(uncertain, "TMT (uncertain) − Full", "higher in") == "20 of 20"
    # 1.05 +- t(19, 0.975) sqrt(35) / 10 / sqrt(20)
    half = 2.093024054408263 * math.sqrt(35) / 10 / math.sqrt(20)
    shown = f"{signed(1.05 - half)} to {signed(1.05 + half)}"
    assert cell(uncertain, "TMT (uncertain) − Full", "95 % interval") == shown
    foreground = by_name(found, "tests-over-pairs-foreground-miou-last")
    assert {row[1] for row in foreground.rows} == {"foreground"}
    assert cell(foreground, "TMT (foreground) − Full", "test") == "no spread, no test"
    between = by_name(found, "rule-tests-over-pairs-miou-last")  # 1.05 above and 0.5 below the same scores
    assert [row[0] for row in between.rows] == ["TMT (uncertain) − TMT (foreground)"]
    assert cell(between, "TMT (uncertain) − TMT (foreground)", "mean") == "+1.55"


VARIED = {
    "full": {"title": "Full", "seeds": [0, 1]},
    "full_none": {"title": "No rule", "stage": "full", "seeds": [0, 1], "settings": {"model.plain_mask_rule": "none"}},
    "full_few": {"title": "Full few", "stage": "full", "seeds": [0, 1], "settings": {"target.images": 9}},
    "tmt": {"title": "TMT", "seeds": [0, 1]},
    "tmt_low": {"title": "Low", "stage": "tmt", "seeds": [0, 1], "settings": {"model.transfer_exclude": "low"}},
    "tmt_few": {"title": "TMT few", "stage": "tmt", "seeds": [0, 1], "settings": {"target.images": 9}},
    "tmt_many": {"title": "TMT many", "stage": "tmt", "seeds": [0, 1], "settings": {"target.images": 90}},
}


def test_gains_are_over_full_fine_tuning_of_the_same_budget(tmp_path):
    gain = {"full_none": 1.0, "full_few": -9.0, "tmt": 0.5, "tmt_low": -0.5, "tmt_few": -6.0, "tmt_many": 3.0}

    def score(variant, pair, seed):
        ripple = 0.1 * seed * (variant == "tmt_few")
        return 40.0 + 5 * pair + seed + ripple + gain.get(variant, 0.0)

    pairs = [("gtav", "cityscapes"), ("gtav", "synthia"), ("synthia", "gtav")]
    study = open_study(make_study(tmp_path / "study", score, pairs, VARIED))
    assert [[c.name for c in study.with_role(role)] for role in ("baseline", "method")] == [["full"], ["tmt"]]
    last, best = comparisons.gain_tables(study)
    assert (last.name, best.name) == ("gains-last", "gains-best")
    assert [(row[0], row[2]) for row in last.rows] == [
        ("No rule", "Full"), ("TMT", "Full"), ("Low", "Full"), ("TMT few", "Full few")
    ]  # fmt: skip
    assert [cell(last, "TMT few", column) for column in ("gtav → synthia", "mean")] == ["+3.05", "+3.05"]
    low, high = (float(end) for end in cell(last, "TMT few", "95 % interval").split(" to "))
    assert low < 3.05 < high and high - low < 1
    assert cell(last, "Low", "mean") == signed(-0.5)
    assert cell(last, "TMT", "higher in") == "6 of 6"
    assert len(comparisons.ablations(study)) == 3, "TMT is compared with its own parts only"


def test_no_table_of_gains_where_only_methods_differ(tmp_path):
    study = open_study(make_study(tmp_path / "study", variants={k: VARIED[k] for k in ("full", "tmt")}))
    assert comparisons.gain_tables(study) == []


def test_tests_over_seeds_say_where_seeds_are_too_few(study):
    found = comparisons.paired_tables(study)
    full = by_name(found, "tests-over-seeds-tmt-full-last")
    assert cell(full, "cityscapes → bdd100k", "mean") == "+0.10"
    assert cell(full, "cityscapes → bdd100k", "test") == "paired t"
    linear = by_name(found, "tests-over-seeds-tmt-linear-last")
    assert cell(linear, "cityscapes → bdd100k", "test") == "not enough seeds (1 of 3)"
    assert cell(linear, "cityscapes → bdd100k", "95 % interval") == "–"


def test_missing_jobs_are_missing_and_never_zero(tmp_path):
    folder = make_study(tmp_path / "study")
    for seed in (0, 1, 2):
        (folder / "results" / f"full-gtav-synthia-s{seed}.json").unlink()
    (folder / "results" / "source-synthia-s0.json").unlink()
    study = open_study(folder)
    assert len(missing(study)) == 3
    table = by_name(tables.method_tables(study), "table1-miou-last")
    assert cell(table, "gtav → synthia", "Full") == MISSING
    assert cell(table, "synthia → gtav", "source only") == "20.00 ± 0.00 (2)"
    # Without pair 19 the mean of the others is 40.5 + 9.
    assert cell(table, "mean over 19 of 20 pairs", "Full") == "49.50"
    tests = by_name(comparisons.paired_tables(study), "tests-over-pairs-uncertain-miou-last")
    assert cell(tests, "TMT (uncertain) − Full", "pairs") == "19"
    per_seed = by_name(comparisons.paired_tables(study), "tests-over-seeds-tmt-full-last")
    assert cell(per_seed, "gtav → synthia", "mean") == MISSING


def test_one_seed_only(tmp_path):
    variants = {name: {**variant, "seeds": [0]} for name, variant in VARIANTS.items()}
    study = open_study(make_study(tmp_path / "study", pairs=[("gtav", "cityscapes")], variants=variants))
    table = by_name(tables.method_tables(study), "table1-miou-last")
    assert "±" not in "".join(cell for row in table.rows for cell in row)
    over = by_name(comparisons.paired_tables(study), "tests-over-pairs-uncertain-miou-last")
    assert cell(over, "TMT (uncertain) − Full", "test") == "not enough pairs (1 of 6)"


def test_only_common_seeds_are_compared(tmp_path):
    """Full without its seed 2, the best one: a comparison of means would see a gain where there is none."""

    def score(variant, pair, seed):
        return 50.0 + 10 * (seed == 2)

    folder = make_study(tmp_path / "study", score, pairs=[("gtav", "cityscapes")])
    (folder / "results" / "full-gtav-cityscapes-s2.json").unlink()
    study = open_study(folder)
    one = comparisons.compare(study, study.variant("tmt"), study.variant("full"), "miou", "last")
    found = one.by_pair[("gtav", "cityscapes")]
    assert (found.count, found.difference) == (2, 0.0)


def test_class_gains_leave_out_classes_that_are_not_there(study):
    gains = comparisons.class_gains(study, study.variant("tmt"), study.variant("full"))
    assert gains["bicycle"] == {}
    assert gains["road"][("cityscapes", "bdd100k")] == pytest.approx(0.1)


def test_estimators_and_attention(study):
    table = tables.estimator_table(study)
    assert table.rows[0][3:5] == ("80.0", "1.20")
    assert {row[1] for row in table.rows} == {"superpixel", "grid"}
    attention = tables.attention_table(study)
    assert cell(attention, "TMT", "allowed %") == "50.0"
    assert cell(attention, "TMT", "fallback %") == "5.0"


AWKWARD = Table(
    "awkward_name",
    "A & B",
    "100 % of $x_1$ {y} #2 ~ ^ \\",
    ("a|b", 'say "hi", <b>'),
    (("<script>", MISSING), ("ü, é", "1")),
)


def test_csv_reads_back_equal(study):
    for table in [AWKWARD, *tables.method_tables(study), *comparisons.paired_tables(study)]:
        assert list(csv.reader(io.StringIO(table.to_csv()))) == [list(table.header), *map(list, table.rows)]


def test_scores_csv_has_every_number(study):
    rows = list(csv.DictReader(io.StringIO(tables.all_scores_csv(study))))
    found = {(r["variant"], r["source"], r["target"], int(r["seed"])): float(r["percent"]) for r in rows
             if r["metric"] == "miou" and r["evaluation"] == "last"}  # fmt: skip
    for (variant, source, target, seed), value in found.items():
        if variant != "source":
            assert value == plain_score(variant, study.pairs.index((source, target)), seed)
    assert len(found) == planned(study) + 3 * 5 * 5


def test_latex_is_balanced(study):
    for table in [
        AWKWARD,
        *tables.method_tables(study),
        *comparisons.paired_tables(study),
        *tables.ablation_tables(study),
    ]:
        text = table.to_latex()
        bare = re.sub(r"\\[\\{}&%$#_]", "", text)
        assert bare.count("{") == bare.count("}")
        assert bare.count("$") % 2 == 0
        assert re.findall(r"\\begin\{(\w+)\}", text) == list(reversed(re.findall(r"\\end\{(\w+)\}", text)))
        lines = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len(lines) == len(table.rows) + 1
        assert {re.sub(r"\\&", "", line).count("&") for line in lines} == {len(table.header) - 1}
        assert text.isascii() or table is AWKWARD


def test_latex_escapes():
    assert latex("50 % of a_b & {c} → ±") == r"50 \% of a\_b \& \{c\} $\rightarrow$ $\pm$"


def test_markdown_keeps_its_columns():
    lines = AWKWARD.to_markdown().splitlines()[4:]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}


def test_nan_is_never_a_number():
    assert number(math.nan) == signed(math.nan) == MISSING
    assert number(-0.5) == "−0.50"


def test_a_folder_that_is_no_study(tmp_path):
    with pytest.raises(ConfigError, match="study"):
        open_study(tmp_path)


def test_a_study_without_results(tmp_path):
    folder = make_study(tmp_path / "study", pairs=[("gtav", "cityscapes")])
    for path in (folder / "results").glob("*.json"):
        path.unlink()
    with pytest.raises(DataError, match="must hold the results"):
        open_study(folder)


def test_a_damaged_result_is_named(tmp_path):
    folder = make_study(tmp_path / "study", pairs=[("gtav", "cityscapes")])
    (folder / "results" / "full-gtav-cityscapes-s0.json").write_text("{")
    with pytest.raises(ConfigError, match="full-gtav-cityscapes-s0.json"):
        open_study(folder)


def test_short_revisions_keep_that_there_were_changes():
    assert short("0123456789abcdef0123456789abcdef01234567") == "0123456789ab"
    assert short("0123456789abcdef0123456789abcdef01234567-dirty") == "0123456789ab-dirty"
    assert short("v1-rc") == "v1-rc"
