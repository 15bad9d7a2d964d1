"""The jobs of a study: how many, which share what, what they are called and told."""

from pathlib import Path

import yaml

from tests.studies import small
from tmt.settings.arguments import from_yaml
from tmt.studies.definition import STUDIES, read
from tmt.studies.jobs import config_text, holds, plan
from tmt.studies.study import Study


def count(jobs: dict, kind: str) -> int:
    return sum(job.kind == kind for job in jobs.values())


def test_small(tmp_path: Path) -> None:
    study = small.begin(tmp_path)
    jobs = study.jobs
    sources = {name for name in jobs if name.startswith("source-")}
    assert sources == {f"source-{domain}-s{seed}" for domain in ("gtav", "synthia") for seed in (0, 1)}
    # Three pairs, seed 0 only, superpixels and grid; the two variants with superpixels share theirs.
    assert count(jobs, "estimator") == 6 and count(jobs, "target") == 3 * (2 + 1 + 1 + 1)
    shared = "estimator-gtav-cityscapes-superpixel-s0"
    for variant in ("tmt", "tmt_p0.1"):
        assert jobs[f"{variant}-gtav-cityscapes-s0"].needs == ("source-gtav-s0", shared)
    assert jobs["wo_acte-gtav-cityscapes-s0"].needs[1] == "estimator-gtav-cityscapes-grid-s0"
    assert jobs["full-gtav-cityscapes-s1"].needs == ("source-gtav-s1",)
    order = list(jobs)
    assert all(order.index(need) < order.index(job.id) for job in jobs.values() for need in job.needs)
    assert [jobs[name].seed for name in order] == sorted(job.seed for job in jobs.values())


def test_settings_of_a_job(tmp_path: Path) -> None:
    jobs = small.begin(tmp_path).jobs
    folder = tmp_path / "out"
    config = jobs["tmt_p0.1-gtav-synthia-s0"].config
    assert config.stages == ("tmt",) and config.seed == 0 and config.model.transfer_fraction == 0.1
    assert (config.data.source, config.data.target) == ("gtav", "synthia")
    assert (config.data.source_root, config.data.target_root) == (f"{folder}/data/gtav", f"{folder}/data/synthia")
    assert config.source_model == f"{folder}/jobs/source-gtav-s0/source/model"
    weights = f"{folder}/jobs/estimator-gtav-synthia-superpixel-s0/estimator/estimator.safetensors"
    assert config.estimator_weights == weights
    # Three images are drawn of each domain; as a target, two of them are trained on, as the settings say.
    assert (config.source.images, config.target.images) == (None, 2)
    assert jobs["estimator-gtav-synthia-grid-s0"].config.model.regions == "grid"
    assert jobs["estimator-gtav-synthia-superpixel-s0"].config.model.transfer_fraction == 0.3, (
        "the study's, not a variant's"
    )


def test_settings_as_a_file(tmp_path: Path) -> None:
    """tmt.train reads from the job's file what the plan says."""
    for job in small.begin(tmp_path).jobs.values():
        path = tmp_path / "config.yaml"
        path.write_text(config_text(job.config))
        assert from_yaml(path) == job.config


def test_a_job_goes_on_in_a_folder_whose_file_says_the_same_in_another_order(tmp_path: Path) -> None:
    """So do half-done jobs of a revision that had fewer settings, or wrote them in another order."""
    config = small.begin(tmp_path).jobs["full-gtav-cityscapes-s0"].config
    tree = yaml.safe_load(config_text(config))
    tree["model"] = dict(reversed(tree["model"].items()))
    del tree["model"]["superpixel_dtype"]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    assert holds(path, config)
    tree["model"]["cell"] += 1
    path.write_text(yaml.safe_dump(tree))
    assert not holds(path, config)
    path.write_bytes(b"\xff\xfe no settings")
    assert not holds(path, config) and not holds(tmp_path / "none.yaml", config)


def test_roots(tmp_path: Path) -> None:
    study = small.begin(tmp_path, roots={"gtav": str(tmp_path)})
    config = study.jobs["full-gtav-cityscapes-s0"].config
    assert config.data.source_root == str(tmp_path) and config.data.target_root == f"{tmp_path}/out/data/cityscapes"
    assert config.source.images is None and study.root("gtav") == tmp_path


def test_own_base(tmp_path: Path) -> None:
    """A variant with a base of its own shares neither source models nor estimators, but the domains."""
    own = {"demo": {"stage": "tmt", "base": "demo"}, "tmt": {"stage": "tmt"}}
    jobs = small.begin(tmp_path, variants=own, pairs=[["gtav", "cityscapes"]]).jobs
    assert sorted(jobs) == sorted(
        ["source-gtav-s0", "estimator-gtav-cityscapes-superpixel-s0", "tmt-gtav-cityscapes-s0", "source-gtav-demo-s0"]
        + ["estimator-gtav-cityscapes-superpixel-demo-s0", "demo-gtav-cityscapes-s0"]
    )
    assert jobs["demo-gtav-cityscapes-s0"].needs[0] == "source-gtav-demo-s0"
    assert jobs["source-gtav-demo-s0"].config.model.hidden == 64
    assert jobs["source-gtav-demo-s0"].config.data == jobs["source-gtav-s0"].config.data


def test_regions_of_other_settings_have_other_estimators(tmp_path: Path) -> None:
    variants = {
        "a": {"stage": "tmt", "settings": {"model.kappa": 5.0}},
        "b": {"stage": "tmt", "settings": {"model.cell": 2, "estimator.steps": 9}},
    }
    jobs = small.begin(tmp_path, variants=variants, pairs=[["gtav", "synthia"]]).jobs
    names = [name for name in jobs if name.startswith("estimator")]
    assert names == ["estimator-gtav-synthia-superpixel-kappa5-s0", "estimator-gtav-synthia-superpixel-cell2-steps9-s0"]
    assert jobs[names[1]].config.estimator.steps == 9


def test_mapillary_settings_only_with_mapillary(tmp_path: Path) -> None:
    settings = {**small.SMALL["settings"], "data.mapillary_mapping": "broad"}
    variants = {"full": {"stage": "full"}}
    study = small.begin(
        tmp_path, domains=["gtav", "synthia", "mapillary"], pairs=None, settings=settings, variants=variants
    )
    found = {job.config.data.mapillary_mapping for job in study.jobs.values() if "mapillary" in job.id}
    others = {study.jobs["full-gtav-synthia-s0"].config.data.mapillary_mapping}
    assert found == {"broad"} and others == {"strict"}


def test_table1(tmp_path: Path) -> None:
    definition = read(STUDIES / "table1.yaml")
    jobs = plan(definition, tmp_path)
    seeds = {variant.name: len(variant.seeds) for variant in definition.variants}
    assert seeds["full"] >= 3 and seeds["tmt"] >= 3 and len(definition.pairs) == 20
    assert {variant.stage for variant in definition.variants} == {"linear", "full", "leep", "otce", "tmt"}
    assert count(jobs, "source") == 5 * 3 and count(jobs, "estimator") == 20 * 3
    assert count(jobs, "target") == 20 * sum(seeds.values())


def test_table2_and_figure7(tmp_path: Path) -> None:
    """Eight columns and three rows; five shares on four pairs. Both share jobs with table1."""
    for name, pairs, variants in (("table2", 8, 3), ("figure7", 4, 5)):
        definition = read(STUDIES / f"{name}.yaml")
        assert len(definition.pairs) == pairs and len(definition.variants) == variants
        first = read(STUDIES / "table1.yaml")
        assert definition.config == first.config and definition.threads == first.threads
        jobs, others = plan(definition, tmp_path), plan(first, tmp_path)
        shared = [job for job in jobs.values() if job.kind == "source"]
        assert all(others[job.id].config == job.config for job in shared) and len(shared) in (3, 6)
    shares = [variant.config.model.transfer_fraction for variant in read(STUDIES / "figure7.yaml").variants]
    assert shares == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_choices_shares_with_table1(tmp_path: Path) -> None:
    """What both have under one name is the same job; no pair is from Cityscapes, which the other studies are about."""
    chosen = read(STUDIES / "choices.yaml")
    jobs, others = plan(chosen, tmp_path), plan(read(STUDIES / "table1.yaml"), tmp_path)
    shared = [job for job in jobs.values() if job.kind != "source" and job.id in others]
    assert {job.variant for job in shared} == {"estimator", "full", "tmt", "tmt_foreground"}
    assert all(others[job.id].config == job.config for job in shared)
    assert sorted(source for source, _ in chosen.pairs) == sorted(set(chosen.domains) - {"cityscapes"})


def test_heldout_has_the_pairs_that_choices_has_not(tmp_path: Path) -> None:
    """Its variants are table1's and one of choices, with the same settings."""
    chosen, heldout, table1 = (read(STUDIES / f"{name}.yaml") for name in ("choices", "heldout", "table1"))
    assert sorted((*chosen.pairs, *heldout.pairs)) == sorted(table1.pairs)
    others = plan(table1, tmp_path)
    new = [job for job in plan(heldout, tmp_path).values() if others.get(job.id) != job and job.kind == "target"]
    assert {job.variant for job in new} == {"bias_foreground"}
    same = [variant for study in (chosen, heldout) for variant in study.variants if variant.name == "bias_foreground"]
    assert same[0].config == same[1].config


def test_study_file_in_the_folder(tmp_path: Path) -> None:
    study = small.begin(tmp_path)
    assert small.run(study, only="full-gtav-cityscapes-s0") == 0
    opened = Study.open(study.folder)
    assert opened.definition == study.definition and opened.jobs == study.jobs
    assert yaml.safe_load((study.folder / "study.yaml").read_text())["name"] == "small"
