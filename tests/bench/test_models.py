"""Whole models in the benchmark compute the same; pages say what was measured."""

import dataclasses

import pytest
import torch

from bench import contended, growth, models, residency, tables

SMALL = dataclasses.replace(models.preset("demo"), points=64, queries=5)


@pytest.fixture(scope="module")
def pair():
    return models.contestants(SMALL)


def test_both_models_give_the_same_logits(pair):
    pixels = models.Batch.draw(2, (64, 96)).pixels
    ours, theirs = (models.inference(model, pixels)() for model in pair)
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_step_moves_the_weights_of_both(pair):
    batch = models.Batch.draw(2, (64, 96))
    for model in pair:
        before = model.class_predictor.weight.detach().clone()
        assert 0 < models.training_step(model, batch)() < float("inf")
        assert not torch.equal(model.class_predictor.weight, before)


def test_the_slope_is_that_of_the_power():
    assert growth.slope([1, 2, 4], [5.0, 20.0, 80.0]) == pytest.approx(2)


def test_curves_have_a_table_each_with_slopes(tmp_path):
    def row(axis, amount, names):
        return {
            "axis": axis,
            "amount": amount,
            "ms": {step: dict.fromkeys(names, 3.0 * amount) for step in growth.STEPS},
        }

    rows = [row("pixels", n, ("tmt", "transformers")) for n in (1, 2)] + [row("regions", n, ("tmt",)) for n in (8, 16)]
    text = growth.lines(rows)
    assert "| 2 | 6 | 6 | 6 | 6 |" in text and "| 16 | 48 | 48 |" in text
    assert text.count("| slope | 1.00 | 1.00 | 1.00 | 1.00 |") == text.count("| slope | 1.00 | 1.00 |") == 1
    growth.draw(rows, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_every_axis_has_a_point_at_which_the_others_begin():
    axes = growth.curves([{"axis": point.axis} for point in growth.points()])
    assert list(axes) == ["pixels", "images", "threads", "queries", "regions"]
    assert all(len(rows) > 1 for rows in axes.values())


@pytest.mark.parametrize(("contended_ms", "words"), [(240.0, "times idle: met."), (260.0, "times idle: **missed**.")])
def test_a_contended_step_is_held_against_an_idle_one(contended_ms, words):
    ms = {name: {"idle": 100.0, "contended": contended_ms} for name in contended.SPINS}
    text = contended.lines(ms)
    assert text[-1].endswith(words) and f"| 100 | {contended_ms:.0f} | {contended_ms / 100:.1f} |" in text[4]


def test_residency_names_threads_and_size():
    rows = [{"threads": 2, "height": 32, "width": 64, "MiB": 2.0, "ns": 790.4}]
    page = tables.page({"environment": {"processor": "some"}}, residency.lines(rows))
    assert "- processor: some" in page and "| 2 | 32 x 64 | 2.0 | 790 |" in page
