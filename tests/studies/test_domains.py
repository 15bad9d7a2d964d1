"""Domains of a study under names of their own, and variants on some of its pairs."""

from pathlib import Path

import pytest

from tests.studies import small
from tmt.errors import ConfigError
from tmt.report.scores import planned
from tmt.studies import Study
from tmt.studies.definition import STUDIES, changes, read, to_yaml
from tmt.studies.domain_data import DomainData
from tmt.studies.jobs import plan
from tmt.studies.prepare import prepare

DATASETS = {
    "mine": {"dataset": "folders", "root": "$A_FOLDER_OF_DATA/mine", "train_images": 30},
    "drawn": {"dataset": "gtav"},
}
CHANGES = {
    "domains": ["mine", "drawn", "synthia"],
    "pairs": [["drawn", "mine"], ["synthia", "mine"]],
    "datasets": DATASETS,
    "settings": {**small.SMALL["settings"], "data.synthetic_source": 200, "data.synthetic_target": 200},
    "variants": {
        "full": {"stage": "full", "seeds": [0, 1]},
        "few": {"stage": "full", "pairs": [["drawn", "mine"]], "settings": {"target.images": 20}},
        "many": {"stage": "full", "settings": {"target.images": 200}},
    },
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("A_FOLDER_OF_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_jobs_get_the_datasets_of_their_domains(tmp_path: Path, data: Path) -> None:
    found = read(small.write(tmp_path / "a.yaml", **CHANGES))
    assert found.roots == {"mine": str(data / "mine")} and found.domains == ("mine", "drawn", "synthia")
    jobs = plan(found, tmp_path / "out")
    job = jobs["full-drawn-mine-s1"]
    assert (job.source, job.target, job.config.data.source, job.config.data.target) == (
        "drawn", "mine", "gtav", "folders",
    )  # fmt: skip
    assert job.config.data.source_root == str(tmp_path / "out" / "data" / "drawn")
    assert job.config.data.target_root == str(data / "mine")


def test_no_more_images_are_asked_for_than_there_are(tmp_path: Path, data: Path) -> None:
    jobs = plan(read(small.write(tmp_path / "a.yaml", **CHANGES)), tmp_path / "out")
    assert jobs["few-drawn-mine-s0"].config.target.images == 20
    assert jobs["many-drawn-mine-s0"].config.target.images is None


def test_variants_on_some_pairs(tmp_path: Path, data: Path) -> None:
    study = Study(tmp_path / "out", read(small.write(tmp_path / "a.yaml", **CHANGES)))
    of_few = [job.id for job in study.jobs.values() if job.variant == "few"]
    assert of_few == ["few-drawn-mine-s0"]
    assert planned(study) == 2 * 2 + 1 + 2 == sum(job.kind == "target" for job in study.jobs.values())


def test_resolved_study_reads_back(tmp_path: Path, data: Path) -> None:
    found = read(small.write(tmp_path / "a.yaml", name="a", **CHANGES))
    (tmp_path / "again.yaml").write_text(to_yaml(found))
    assert read(tmp_path / "again.yaml") == found
    other = {**DATASETS, "drawn": {"dataset": "synthia"}}
    again = read(small.write(tmp_path / "b.yaml", **{**CHANGES, "datasets": other}))
    assert changes(found, again) == ["datasets.drawn: has changed"]


def test_files_lie_from_the_root_on() -> None:
    domain = DomainData("folders", "../maps/a.csv", "splits/day.txt")
    assert domain.settings("source", "/data/mine") == {
        "source": "folders", "source_classes": "/data/maps/a.csv", "source_train_list": "/data/mine/splits/day.txt",
    }  # fmt: skip
    assert DomainData("gtav", "cityscapes_to_idd7").settings("target", "/x")["target_classes"] == "cityscapes_to_idd7"


def test_missing_data_is_one_line(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"roots.mine: must be the folder of the dataset, got .*mine; .*--root mine="):
        prepare(Study(tmp_path / "out", read(small.write(tmp_path / "a.yaml", **CHANGES))))
    monkeypatch.delenv("A_FOLDER_OF_DATA")
    study = Study(tmp_path / "out", read(small.write(tmp_path / "a.yaml", **CHANGES)))
    assert len(study.jobs) > 5
    with pytest.raises(ConfigError, match=r"roots.mine: \$A_FOLDER_OF_DATA/mine names an environment variable"):
        prepare(study)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"datasets": {"mine": {"dataset": "folders"}}}, "datasets.mine: must have a root, as folders cannot be drawn"),
        ({"datasets": {"mine": {"dataset": "cam"}}}, "datasets.mine.dataset: must be one of"),
        ({"datasets": {"my-own": {"dataset": "gtav"}}}, "must be a name of letters, digits and _"),
        ({"datasets": {"mine": {"dataset": "gtav", "rot": "x"}}}, "unknown key; did you mean root"),
        ({"variants": {"full": {"pairs": [["mine", "drawn"]]}}}, "must be one of the study's pairs"),
    ],
)
def test_mistakes(changed: dict, words: str, tmp_path: Path, data: Path) -> None:
    tree = {**CHANGES, **changed}
    tree["domains"] = ["synthia", "gtav"] if "datasets" in changed else tree["domains"]
    tree["pairs"] = [["gtav", "synthia"]] if "datasets" in changed else tree["pairs"]
    with pytest.raises(ConfigError) as error:
        read(small.write(tmp_path / "a.yaml", **tree))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_real1_compares_what_was_asked_for() -> None:
    study = read(STUDIES / "real1.yaml")
    assert all(root.startswith("$TMT_REAL_DATA/") or Path(root).is_absolute() for root in study.roots.values())
    assert ("camvid_day", "camvid_dusk") in study.pairs and len(study.pairs) == 5
    by_name = {variant.name: variant for variant in study.variants}
    assert {by_name[name].config.estimator.kind for name in ("tmt", "conditional", "entropy", "error")} == {
        "domain", "conditional", "entropy", "error",
    }  # fmt: skip
    assert {variant.config.target.images for variant in study.variants} == {20, 200}
    assert {len(by_name[name].seeds) for name in ("full", "tmt", "tmt_foreground", "full_20", "tmt_20")} == {3}
    assert by_name["full_random"].own_base and len(by_name["full_random"].pairs or ()) == 1


def test_real1_is_planned_wherever_the_data_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMT_REAL_DATA", str(tmp_path / "real"))
    jobs = plan(read(STUDIES / "real1.yaml"), tmp_path / "out")
    night = jobs["full-camvid_day-camvid_dusk-s0"].config
    assert (night.data.source, night.data.target, night.target.images) == ("folders", "folders", None)
    assert night.data.target_train_list == str(tmp_path / "real/camvid/splits/dusk-train.txt")
    assert night.data.source_classes == str(tmp_path / "real/class-maps/camvid_to_idd7.csv")
    drawn = jobs["full-gtav-idd-s0"].config
    assert (drawn.data.source, drawn.data.source_classes, drawn.data.target_classes, drawn.target.images) == (
        "gtav", "cityscapes_to_idd7", None, 200,
    )  # fmt: skip
    assert jobs["tmt_random-idd-camvid-s0"].config.model.backbone_weights == "random"
    assert sum(job.kind == "target" for job in jobs.values()) == 113
