"""Put the report of a study together and write it."""

from pathlib import Path

from tmt.report import comparisons, distance, figures, html, tables, understanding
from tmt.report.formats import Table
from tmt.report.qualitative import Scene, scenes_of
from tmt.report.scores import kind_of_data, missing, open_study, origin, planned, revisions
from tmt.report.style import Chart
from tmt.runtime.files import check_writable, write_text
from tmt.studies import Study

GROUPS = {
    "segmentation": "Image, ground truth and what each model predicts (paper, Fig. 4), with the share of labelled "
    "pixels that are right. Black: not labelled.",
    "transferability": "Transferability T of the target's image, as the discriminator judges the source model's "
    "features before fine-tuning (paper, Fig. 5), each map in its own range, and where the source model is wrong.",
    "regions": "Superpixels and equal patches of the same first size (paper, Fig. 1d), and the best segmentation that "
    "each allows: every region in its most frequent class.",
    "attention": "Attention of one query, full fine-tuning against TMT (paper, Figs. 1b, 1c, 6): where it may attend "
    "(red: plain, blue: TMT), where it does, and the mask it predicts. It is the query of the highest class "
    "probability times IoU with the ground truth; the layer is the last of the finest resolution; attention is a mean "
    "over heads.",
}


def write_report(folder: Path, out: Path, images: int = 1) -> Path:
    """Write the report of the study in `folder` to `out`; returns the page. Raises tmt.errors.TMTError."""
    study = open_study(folder)
    check_writable(out)
    for part in ("tables", "charts", "pictures"):
        (out / part).mkdir(parents=True, exist_ok=True)
    findings = understanding.of_study(study, out / "understanding.json")
    scenes = scenes_of(study, out / "pictures", images) if images else []
    parts = all_tables(study, findings)
    drawn = _charts(study, findings)
    _write_tables(out, [table for group in parts.values() for table in group])
    write_text(out / "tables" / "scores.csv", tables.all_scores_csv(study))
    for chart in (one for group in drawn.values() for one in group):
        write_text(out / "charts" / f"{chart.name}.svg", chart.svg)
    write_text(out / "report.md", markdown(study, parts))
    write_text(out / "index.html", _page(study, parts, drawn, scenes, findings, out / "pictures"))
    return out / "index.html"


def all_tables(study: Study, findings: list[understanding.Finding]) -> dict[str, list[Table]]:
    """The tables by the section that they belong to."""
    told_apart = (tables.estimator_table(study), distance.table(study))
    attention = tables.attention_table(study)
    return {
        "methods": tables.method_tables(study),
        "tests": comparisons.paired_tables(study),
        "gains": comparisons.gain_tables(study),
        "ablations": tables.ablation_tables(study),
        "fraction": tables.fraction_tables(study),
        "estimators": [table for table in told_apart if table],
        "attention": [attention] if attention else [],
        "understanding": _understanding(study, findings),
    }


def _understanding(study: Study, findings: list[understanding.Finding]) -> list[Table]:
    if not findings:
        return []
    ranking = understanding.ranking(findings, origin(study))
    return [understanding.table(findings, origin(study)), *([ranking] if ranking else [])]


def _charts(study: Study, findings: list[understanding.Finding]) -> dict[str, list[Chart]]:
    told_apart = (figures.estimator_chart(study), figures.distance_chart(study))
    return {
        "tests": figures.over_pairs_charts(study),
        "pairs": figures.by_pair_charts(study),
        "fraction": figures.fraction_charts(study),
        "classes": figures.class_charts(study),
        "training": figures.training_charts(study),
        "estimators": [chart for chart in told_apart if chart],
        "understanding": figures.understanding_charts(findings, origin(study)),
    }


def _write_tables(out: Path, tables: list[Table]) -> None:
    for table in tables:
        write_text(out / "tables" / f"{table.name}.csv", table.to_csv())
        write_text(out / "tables" / f"{table.name}.tex", table.to_latex())


def facts(study: Study) -> dict[str, str]:
    """What every number of the report is about."""
    targets = study.targets.values()
    images = sorted({int(result.last["images"]) for result in targets if result.last.get("images")})
    steps = sorted({result.steps for result in targets if result.steps})
    hours = sum(result.seconds or 0 for result in study.finished.values()) / 3600
    whole = planned(study)
    return {
        "Study": study.name,
        "Data": kind_of_data(study),
        "Target models": f"{whole - len(missing(study))} of {whole} are there",
        "Scores": "percent, over all labelled pixels of the target's validation images; mIoU over the classes in the "
        "ground truth",
        "Validation images": ", ".join(map(str, images)) or "not said by the results",
        "Target training steps": ", ".join(map(str, steps)) or "not said by the results",
        "Revision of the code": ", ".join(revisions(study)) or "not said by the results",
        "Training time": f"{hours:.1f} hours in all",
    }


def markdown(study: Study, parts: dict[str, list[Table]]) -> str:
    """The text of report.md."""
    about = "\n".join(f"- {name}: {value}" for name, value in facts(study).items())
    body = "\n\n".join(table.to_markdown() for group in parts.values() for table in group)
    return f"# {study.title}\n\n{about}\n\n{_missing_text(study)}\n\n{body}\n"


def _missing_text(study: Study) -> str:
    found = missing(study)
    if not found:
        return "Every planned target model is there."
    more = f"; and {len(found) - 12} more" if len(found) > 12 else ""
    return f"Missing, {len(found)} of {planned(study)} target models: {'; '.join(found[:12])}{more}."


def _page(
    study: Study, parts: dict[str, list[Table]], drawn: dict[str, list[Chart]], scenes: list[Scene],
    findings: list[understanding.Finding], pictures: Path,
) -> str:  # fmt: skip
    head = html.facts(facts(study)) + _note(_missing_text(study))
    sections = _number_sections(parts, drawn, understanding.verdict(findings))
    return html.page(study.title, head, [*sections, *_scene_sections(scenes, pictures)])


def _number_sections(
    parts: dict[str, list[Table]], drawn: dict[str, list[Chart]], verdict: str
) -> list[tuple[str, str, str]]:
    """What is said with tables and charts."""
    told = {name: html.tables(group, shown={"tests": 2, "estimators": 0}.get(name, 1)) for name, group in parts.items()}
    shown = {name: html.charts(group) if group else "" for name, group in drawn.items()}
    return [
        html.section("methods", "Methods (Table 1)", told["methods"]),
        html.section("tests", "Paired tests of TMT", shown["tests"], shown["pairs"], told["tests"]),
        html.section("gains", "Gains over full fine-tuning", told["gains"]),
        html.section("ablations", "Ablations (Table 2)", told["ablations"]),
        html.section("fraction", "Share left out, p_T (Fig. 7)", shown["fraction"], told["fraction"]),
        html.section("classes", "Gains by class", shown["classes"]),
        html.section("training", "Training curves", _training(drawn["training"])),
        html.section("estimators", "Discriminators", shown["estimators"], told["estimators"]),
        html.section("attention-table", "Masked attention", told["attention"]),
        html.section(
            "understanding", "Does T point at what fails?", _note(verdict), shown["understanding"],
            told["understanding"],
        ),
    ]  # fmt: skip


def _training(drawn: list[Chart]) -> str:
    """The first training curves, and the others folded up."""
    first, more = drawn[:6], drawn[6:]
    folded = html.folded(f"Training curves of {len(more)} more pairs", html.charts(more)) if more else ""
    return (html.charts(first) + folded) if first else ""


def _note(text: str) -> str:
    return f'<p class="note">{html.text(text)}</p>' if text else ""


def _scene_sections(scenes: list[Scene], pictures: Path) -> list[tuple[str, str, str]]:
    titles = {
        "segmentation": "Segmentation (Fig. 4)",
        "transferability": "Transferability maps (Fig. 5)",
        "regions": "Superpixels and patches (Fig. 1d)",
        "attention": "Attention, full fine-tuning and TMT (Fig. 6)",
    }
    sections = []
    for group, title in titles.items():
        own = [html.scene(scene, pictures) for scene in scenes if scene.group == group]
        intro = f"<p>{html.text(GROUPS[group])} Images are evenly spread over the validation split, not chosen.</p>"
        colours = html.legend() if group in ("segmentation", "regions") else ""
        more = html.folded(f"{len(own) - 3} more", "\n".join(own[3:])) if len(own) > 3 else ""
        sections.append(html.section(group, title, intro, colours, *own[:3], more) if own else (group, title, ""))
    return sections
