"""The page: well-formed, whole in itself, escaped, and there for unfinished studies."""

import base64
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import yaml

from tests.report.made_up import VARIANTS, make_study
from tmt.cli.report import main
from tmt.report.figures import over_pairs_charts
from tmt.report.scores import kind_of_data, open_study
from tmt.report.style import canvas, to_svg
from tmt.report.write import write_report
from tmt.studies.definition import find

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Checker(HTMLParser):
    """Counts what matters, and fails where elements do not nest."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.tables: list[int] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if "href" in values else []
        if tag == "img":
            self.images.append(values)
        if tag == "table":
            self.tables.append(0)
        if tag == "th" and values.get("scope") == "col":
            self.tables[-1] += 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def check(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    return checker


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = make_study(tmp_path_factory.mktemp("study"), pairs=[("gtav", "cityscapes"), ("synthia", "gtav")])
    write_report(folder, folder / "report")
    return folder / "report"


def test_page_is_well_formed_and_whole(report):
    text = (report / "index.html").read_text()
    page = check(text)
    assert not re.search(r"https?:|//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "@import" not in text
    assert "@font-face" not in text
    assert page.images
    for image in page.images:
        assert image["src"].startswith("data:image/")
        assert image["alt"]
    assert page.tables
    assert all(page.tables)
    assert len(set(page.ids)) == len(page.ids)
    assert {link[1:] for link in page.links} == set(page.ids)
    assert len(text) < 3_000_000


def test_page_suits_phones_and_the_dark(report):
    text = (report / "index.html").read_text()
    assert '<meta name="viewport" content="width=device-width,initial-scale=1">' in text
    assert "prefers-color-scheme:dark" in text


def test_charts_are_svg_without_anything_from_outside(report):
    files = sorted((report / "charts").glob("*.svg"))
    page = check((report / "index.html").read_text())
    shown = [base64.b64decode(i["src"].split(",")[1]).decode() for i in page.images if "svg" in i["src"][:20]]
    assert sorted(shown) == sorted(path.read_text() for path in files)
    for path in files:
        root = ElementTree.fromstring(path.read_text())
        assert root.tag.endswith("svg")
        assert "metadata" not in path.read_text()
        assert not re.search(r'(href|src)="(?!#)', path.read_text())
        assert "prefers-color-scheme" in path.read_text()


def test_page_says_what_it_is_about(report):
    words = " ".join(check((report / "index.html").read_text()).words)
    for fact in ("Made-up study for tests, not a result", "synthetic", "made-up-revision", "26 of 26 are there"):
        assert fact in words


def test_the_same_report_twice(report, tmp_path):
    write_report(report.parent, tmp_path / "again")
    for file in ("index.html", "report.md", "tables/scores.csv"):
        assert (tmp_path / "again" / file).read_bytes() == (report / file).read_bytes()


def test_without_job_folders_everything_else_is_there(tmp_path, capsys):
    folder = make_study(tmp_path / "study", pairs=[("gtav", "cityscapes")])
    assert main([str(folder)]) == 0
    said = capsys.readouterr().out
    assert "pictures left out of gtav → cityscapes" in said
    assert "correlation left out of gtav → cityscapes seed 0" in said
    page = check((folder / "report" / "index.html").read_text())
    assert "methods" in page.ids
    assert "segmentation" not in page.ids


def test_unfinished_study_names_what_is_missing(tmp_path):
    folder = make_study(tmp_path / "study", pairs=[("gtav", "cityscapes"), ("synthia", "gtav")])
    for path in (folder / "results").glob("*.json"):
        if path.name != "full-gtav-cityscapes-s1.json":
            path.unlink()
    words = " ".join(check(write_report(folder, folder / "report").read_text()).words)
    assert "Missing, 25 of 26 target models: Linear, gtav → cityscapes, seed 0" in words
    assert re.search(r"TMT \(foreground\)\s+gtav → cityscapes.*missing", words, re.DOTALL)


def test_names_that_need_escaping(tmp_path):
    evil = '<script>alert("x")</script> & 50 % _ {'
    variants = {**VARIANTS, "full": {**VARIANTS["full"], "title": evil}}
    folder = make_study(tmp_path / "study", pairs=[("gtav", "cityscapes")], variants=variants, title=f"{evil} title")
    text = write_report(folder, folder / "report").read_text()
    page = check(text)
    assert "script" not in page.tags
    assert any(f"{evil} title" in word for word in page.words)
    for path in (folder / "report" / "charts").glob("*.svg"):
        root = ElementTree.fromstring(path.read_text())
        assert not [element for element in root.iter() if element.tag.endswith("script")]
    latex = (folder / "report" / "tables" / "table1-miou-last.tex").read_text()
    assert r"\& 50 \% \_ \{" in latex


def test_titles_with_dollars_are_no_formulas(tmp_path):
    """matplotlib would read $...$ as mathematics, and fail on what is none."""
    variants = {**VARIANTS, "full": {**VARIANTS["full"], "title": r"$\frac$ x_1"}}
    folder = make_study(tmp_path / "study", pairs=[("gtav", "cityscapes")], variants=variants)
    write_report(folder, folder / "report")
    assert r"$\frac$ x_1" in (folder / "report" / "charts" / "training-gtav-cityscapes.svg").read_text()


def test_dark_ink_is_in_every_chart():
    with canvas(2) as (figure, axes):
        axes.set_title("a title")
    text = to_svg(figure)
    assert ">a title<" in text
    assert "@media (prefers-color-scheme: dark)" in text


def test_a_method_far_below_leaves_the_others_room(tmp_path):
    """Linear is 8 points below: the scale bends. Without it, it is plain."""
    near = {name: variant for name, variant in VARIANTS.items() if name != "linear"}
    for variants, bent in ((VARIANTS, True), (near, False)):
        study = open_study(make_study(tmp_path / str(bent), variants=variants))
        found = over_pairs_charts(study)
        assert [("logarithmic beyond 2" in chart.svg) for chart in found] == [bent, bent]


def test_real_and_synthetic_domains_are_told_apart(tmp_path):
    folder = make_study(tmp_path / "study", pairs=[("gtav", "cityscapes")])
    path = folder / "study.yaml"
    path.write_text(path.read_text().replace("roots: {}", "roots: {cityscapes: /data/cityscapes}"))
    assert kind_of_data(open_study(folder)) == "real: cityscapes; synthetic: gtav"


def test_no_study_is_one_line_and_code_2(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["table2", "figure7"])
def test_studies_of_tmt_alone(tmp_path, name):
    """Without other methods there is nothing to compare TMT with, but its own parts."""
    variants = yaml.safe_load(find(name).read_text())["variants"]
    folder = make_study(tmp_path / "study", lambda *_: 40.0, pairs=[("gtav", "cityscapes")], variants=variants)
    text = write_report(folder, folder / "report").read_text()
    ids = check(text).ids
    assert ("ablations" in ids, "fraction" in ids) == (name == "table2", name == "figure7")
    assert "gains" not in ids
    assert [v.name for v in open_study(folder).with_role("method")] == ["tmt" if name == "table2" else "tmt_p0.3"]
