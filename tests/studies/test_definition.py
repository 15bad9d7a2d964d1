"""Study files: what they may hold, and that a mistake is one line with the file, the line and what is allowed."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.studies import small
from tmt.errors import ConfigError
from tmt.studies import definition as definitions
from tmt.studies.definition import STUDIES, changes, read, studies, to_yaml

GOOD = """title: A study
base: demo
domains: [gtav, cityscapes, synthia]
pairs:
  - [gtav, cityscapes]
settings:
  target.steps: 7
variants:
  full: {title: Full, seeds: [0, 1]}
  tmt:
    title: TMT
    stage: tmt
    settings:
      model: {transfer_fraction: 0.1}
"""


def study(tmp_path: Path, text: str) -> definitions.Definition:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return read(path)


def test_good(tmp_path: Path) -> None:
    found = study(tmp_path, GOOD)
    full, tmt = found.variants
    assert found.name == "study" and found.pairs == (("gtav", "cityscapes"),) and found.threads == 1
    assert (full.stage, full.seeds, tmt.seeds) == ("full", (0, 1), (0,))
    assert found.config.target.steps == full.config.target.steps == tmt.config.target.steps == 7
    assert (full.config.model.transfer_fraction, tmt.config.model.transfer_fraction) == (0.3, 0.1)
    assert tmt.config.model.hidden == 64, "the base is the preset demo"


def test_roles(tmp_path: Path) -> None:
    """Those that are given, and for the others what their settings suggest."""
    variants = {
        "full": {}, "full_few": {"stage": "full", "settings": {"target.images": 1}},
        "tmt": {}, "other_rule": {"stage": "tmt", "settings": {"model.mask_rule": "none"}},
        "wo_tma": {"stage": "tmt", "settings": {"model.transfer_mode": "bias"}},
        "tenth": {"stage": "tmt", "settings": {"model.transfer_fraction": 0.1, "model.mask_rule": "none"}},
        "given": {"stage": "tmt", "role": "ablation", "settings": {"model.transfer_fraction": 0.1}},
        "given_full": {"stage": "full", "role": "baseline", "settings": {"target.images": 1}},
    }  # fmt: skip
    found = read(small.write(tmp_path / "a.yaml", variants=variants))
    assert {variant.name: variant.role for variant in found.variants} == {
        "full": "baseline", "full_few": "ablation", "tmt": "method", "other_rule": "method", "wo_tma": "ablation",
        "tenth": "fraction", "given": "ablation", "given_full": "baseline",
    }  # fmt: skip
    assert study(tmp_path, to_yaml(found)).variants == found.variants


@pytest.mark.parametrize("name", studies())
def test_shipped_studies_say_every_role(name: str) -> None:
    text = (STUDIES / f"{name}.yaml").read_text()
    assert text.count("role: ") == len(read(STUDIES / f"{name}.yaml").variants)


def test_every_pair_without_pairs(tmp_path: Path) -> None:
    found = study(tmp_path, GOOD.replace("pairs:\n  - [gtav, cityscapes]\n", ""))
    assert len(found.pairs) == len(set(found.pairs)) == 6 and all(source != target for source, target in found.pairs)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("- [gtav, cityscapes]", "- [gtav, citscapes]", 5, ["pairs.0.1", "'citscapes'", "did you mean cityscapes?"]),
        ("- [gtav, cityscapes]", "- [gtav, bdd100k]", 5, ["pairs.0.1", "one of gtav, cityscapes, synthia"]),
        ("- [gtav, cityscapes]", "- [gtav, gtav]", 5, ["pairs.0", "two different domains"]),
        ("- [gtav, cityscapes]", "- gtav", 5, ["pairs.0", "[source, target]"]),
        ("[gtav, cityscapes, synthia]", "[gtav, kitti]", 3, ["domains.1", "'kitti'", "mapillary"]),
        ("[gtav, cityscapes, synthia]", "[gtav, gtav]", 3, ["domains.1", "once", "'gtav'"]),
        ("stage: tmt", "stage: tnt", 12, ["variants.tmt.stage", "'tnt'", "did you mean tmt?", "full"]),
        ("stage: tmt", "stage: source", 12, ["variants.tmt.stage", "'source'"]),
        ("stage: tmt", "stages: tmt", 12, ["variants.tmt.stages", "unknown key", "did you mean stage?"]),
        ("stage: tmt", "stage: tmt\n    role: metod", 13, ["variants.tmt.role", "'metod'", "did you mean method?"]),
        ("{title: Full, ", "{title: Full, role: method, ", 9, ["variants.full.role", "one of baseline, ablation,"]),
        ("variants:", "variant:", 8, ["variant", "did you mean variants?"]),
        ("title: TMT", "title: [TMT]", 11, ["variants.tmt.title", "text"]),
        ("  full: ", "  'full x': ", 9, ["variants.full x", "letters"]),
        ("  full: ", "  source: ", 9, ["variants.source", "must not be source or estimator"]),
        ("transfer_fraction: 0.1", "transfer_fracton: 0.1", 14, ["model.transfer_fracton", "model.transfer_fraction?"]),
        ("transfer_fraction: 0.1", "transfer_fraction: 1.1", 14, ["model.transfer_fraction", "1.1"]),
        ("transfer_fraction: 0.1", "queries: 5", 14, ["model.queries", "source models", "setting of the study"]),
        ("target.steps: 7", "target.steps: many", 7, ["target.steps", "many"]),
        ("target.steps: 7", "seed: 7", 7, ["seed", "leave it out"]),
        ("target.steps: 7", "model.attention_heads: 7", 7, ["model.hidden", "multiple"]),
        ("seeds: [0, 1]", "seeds: [0, -1]", 9, ["variants.full.seeds.1", "-1"]),
        ("seeds: [0, 1]", "seeds: [1, 1]", 9, ["variants.full.seeds.1", "once"]),
        ("seeds: [0, 1]", "seeds: 3", 9, ["variants.full.seeds", "list"]),
        ("base: demo", "base: dmo", 2, ["base", "'dmo'", "did you mean demo?"]),
        ("base: demo", "threads: 0", 2, ["threads", "positive"]),
        ("base: demo", "roots: {kitti: /}", 2, ["roots.kitti", "gtav"]),
        ("base: demo", "title: again", 1, ["title", "once", "line 2"]),
        ("title: A study", "title: {", 1, ["cannot be read as a study file"]),
    ],
)
def test_bad(tmp_path: Path, old: str, new: str, line: int, words: list[str]) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(ConfigError) as error:
        study(tmp_path, GOOD.replace(old, new))
    text = str(error.value)
    place = f"{tmp_path / 'study.yaml'}:" if "cannot be read" in text else f"{tmp_path / 'study.yaml'}:{line}: "
    assert text.startswith(place) and "\n" not in text
    assert not [word for word in words if word not in text], text


@pytest.mark.parametrize("text", ["", "- a", "just text"])
def test_not_a_mapping(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"study\.yaml.*must be a study file"):
        study(tmp_path, text)


def test_unknown_study() -> None:
    with pytest.raises(ConfigError, match="table1.*got table3; did you mean table"):
        definitions.find("table3")


def test_resolved_study_reads_back(tmp_path: Path) -> None:
    """What a study's folder keeps means the same, whatever becomes of the preset."""
    own = {"own": {"stage": "full", "base": "demo", "settings": {"target.steps": 3}}}
    found = read(small.write(tmp_path / "a.yaml", variants={**small.SMALL["variants"], **own}))
    again = study(tmp_path, to_yaml(found))
    assert again == found
    assert found.variants[-1].config.model.hidden == 64 and found.config.model.hidden == 256


def test_changes(tmp_path: Path) -> None:
    old = read(small.write(tmp_path / "a.yaml"))
    more = {**small.SMALL["variants"], "new": {"stage": "full"}}
    more["full"] = {**more["full"], "seeds": [0, 1, 2], "title": "Everything"}
    assert changes(old, read(small.write(tmp_path / "b.yaml", variants=more, pairs=None))) == []
    assert changes(old, replace(old, threads=2)) == ["threads: 1 -> 2"]
    assert changes(old, replace(old, roots={"gtav": "/data"})) == ["roots.gtav: None -> /data"]
    other = {**small.SMALL["variants"], "tmt": {"settings": {"model.kappa": 5.0}}}
    assert changes(old, read(small.write(tmp_path / "c.yaml", variants=other))) == [
        "variants.tmt.model.kappa: 14.285714285714286 -> 5.0"
    ]
    settings = {**small.SMALL["settings"], "target.steps": 5}
    assert "settings.target.steps: 20000 -> 5" in changes(
        old, read(small.write(tmp_path / "d.yaml", settings=settings))
    )


@pytest.mark.parametrize("name", studies())
def test_shipped(name: str) -> None:
    assert read(STUDIES / f"{name}.yaml").name == name
