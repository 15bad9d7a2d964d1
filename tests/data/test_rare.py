"""Subsets, and rare-class sampling: DAFormer's probabilities, crops that show the class, the same on every resume."""

import json

import numpy as np
import pytest
import torch

from tmt.data import IGNORE, Augment, Subset, class_counts, open_dataset, rare_classes, train_batches
from tmt.data.files import Sample
from tmt.data.labels import CITYSCAPES19
from tmt.data.rare import RareClasses
from tmt.data.subset import hold_out
from tmt.data.transforms import Wanted
from tmt.errors import DataError


@pytest.fixture
def dataset(made):
    return open_dataset("synthia", made["synthia"], "train")


def test_a_subset_is_seeded_nested_and_in_order(dataset):
    small, large = Subset(dataset, 2, seed=3), Subset(dataset, 4, seed=3)
    assert set(small.names) < set(large.names) <= set(dataset.names) and large.names == sorted(large.names)
    assert Subset(dataset, 2, seed=3).names == small.names and len(small) == 2
    assert len({tuple(Subset(dataset, 2, seed=seed).names) for seed in range(8)}) > 2
    assert small[1].name == small.names[1] and small.label_set is dataset.label_set
    np.testing.assert_array_equal(small.label(1), small[1].label)
    assert Subset(dataset, 6, 0).names == dataset.names


@pytest.mark.parametrize("count", [0, 7, -1])
def test_a_subset_of_what_is_not_there_is_refused(dataset, count):
    with pytest.raises(DataError, match=rf"subset: count must be in 1..6, .* got {count}"):
        Subset(dataset, count, seed=0)


def test_counts_are_those_of_the_labels_and_read_once(dataset, tmp_path, monkeypatch):
    cache = tmp_path / "counts.json"
    counts = class_counts(dataset, cache, progress=False)
    expected = [[(dataset[i].label == c).sum() for c in range(19)] for i in range(6)]
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_array_equal(class_counts(dataset, None, workers=2, progress=False), expected)
    monkeypatch.setattr(type(dataset), "label", lambda *_: pytest.fail("the cache was not used"))
    np.testing.assert_array_equal(class_counts(dataset, cache, progress=False), expected)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"key": "of another set", "counts": [[1]]}'])
def test_a_wrong_cache_is_not_believed(dataset, tmp_path, content):
    cache = tmp_path / "counts.json"
    cache.write_text(content)
    assert class_counts(dataset, cache, progress=False).shape == (6, 19)
    assert len(json.loads(cache.read_text())["counts"]) == 6


def test_probabilities_are_the_softmax_of_rarity():
    counts = np.array([[90, 0, 10, 0], [0, 80, 20, 0]])
    rare = rare_classes(counts, temperature=0.1)
    share = torch.tensor([0.45, 0.40, 0.15])
    expected = torch.softmax((1 - share) / 0.1, 0)
    np.testing.assert_allclose(rare.probabilities[:3], expected, rtol=1e-6)
    assert rare.probabilities[3] == 0 and rare.probabilities.sum() == pytest.approx(1)
    assert [images.tolist() for images in rare.images] == [[0], [1], [0, 1], []]


def test_images_with_a_few_pixels_of_a_class_count_only_where_there_are_no_others():
    counts = np.array([[1, 9999], [500, 9500], [0, 10000]])
    assert rare_classes(counts).images[0].tolist() == [1]
    assert rare_classes(counts[[0, 2]]).images[0].tolist() == [0]


def test_low_temperatures_do_not_overflow_and_wrong_input_is_refused():
    assert np.isfinite(rare_classes(np.array([[999, 1]]), 1e-6).probabilities).all()
    with pytest.raises(DataError, match="temperature must be above 0, got 0"):
        rare_classes(np.ones((1, 2)), 0)
    with pytest.raises(DataError, match="labels must hold a class"):
        rare_classes(np.zeros((3, 2)))


class Patch:
    """Images of road, of which the odd ones have a patch of bicycle at the right."""

    label_set = CITYSCAPES19
    names = [str(i) for i in range(8)]

    def __len__(self):
        return 8

    def __getitem__(self, index):
        label = self.label(index)
        return Sample(np.zeros((*label.shape, 3), np.uint8), label, self.names[index])

    def label(self, index):
        label = np.zeros((64, 256), np.uint8)
        label[:, ::2] = 1
        if index % 2:
            label[20:40, 230:250] = 18
        return label


def test_rare_classes_are_drawn_more_often_and_their_crops_show_them():
    counts = class_counts(Patch(), progress=False)
    rare = rare_classes(counts, 0.05)
    augment = Augment(crop=(32, 64), scale=(1.0, 1.0), crop_tries=60)
    batches = list(train_batches(Patch(), augment, 8, seed=0, steps=10, rare=rare))
    labels = torch.cat([batch["labels"] for batch in batches])
    shown = (labels == 18).flatten(1).any(1).float().mean()
    plain = torch.cat([b["labels"] for b in train_batches(Patch(), augment, 8, seed=0, steps=10)])
    assert shown > 0.9 > 0.25 > (plain == 18).flatten(1).any(1).float().mean()


def test_the_sequence_is_a_function_of_seed_and_position(dataset):
    rare = rare_classes(class_counts(dataset, progress=False))

    def run(**options):
        return list(train_batches(dataset, Augment(crop=(32, 64)), 4, seed=1, steps=4, rare=rare, **options))

    whole = run()
    for other in (run(workers=2), whole[:2] + run(start_step=2)):
        for left, right in zip(whole, other, strict=True):
            assert left["names"] == right["names"] and torch.equal(left["pixel_values"], right["pixel_values"])
    assert not torch.equal(whole[0]["pixel_values"], whole[1]["pixel_values"])


def test_what_is_wanted_may_be_out_of_reach():
    label = np.full((40, 40), IGNORE, dtype=np.uint8)
    augment = Augment(crop=(32, 32))
    _, target = augment(np.zeros((40, 40, 3), np.uint8), label, np.random.default_rng(0), Wanted(3, 0.5))
    assert target.shape == (32, 32)


def test_drawing_follows_the_probabilities():
    rare = RareClasses(np.array([0.8, 0.2]), (np.array([4]), np.array([5, 6])))
    drawn = [rare.draw(np.random.default_rng(seed)) for seed in range(400)]
    assert 0.7 < np.mean([wanted == 0 for wanted, _ in drawn]) < 0.9
    assert {index for wanted, index in drawn if wanted} == {5, 6}


def test_held_out_images_are_not_trained_on(dataset):
    kept, held = hold_out(dataset, 0.34, seed=3)
    assert set(kept.names) | set(held.names) == set(dataset.names) and not set(kept.names) & set(held.names)
    assert len(held) == round(0.34 * len(dataset)) and held.names == sorted(held.names, key=dataset.names.index)
    assert hold_out(dataset, 0.34, seed=3)[1].names == held.names
    assert len(hold_out(dataset, 0.0, seed=3)[1]) == 1 and len(hold_out(dataset, 1.0, seed=3)[0]) == 1
    assert np.array_equal(held[0].label, dataset[dataset.names.index(held.names[0])].label)
    with pytest.raises(DataError, match="at least 2 images"):
        hold_out(Subset(dataset, 1, seed=3), 0.5, seed=3)


def test_batches_say_where_the_images_are(dataset):
    """Of an image that fills half of the crop: its size; the rest is padding."""
    height, width = dataset[0].label.shape
    augment = Augment(crop=(2 * height, 3 * width), scale=(1.0, 1.0), max_class_share=1.0, flip_probability=0.0)
    (batch,) = train_batches(dataset, augment, batch_size=2, seed=0)
    assert batch["extents"].tolist() == [[height, width]] * 2
    assert (batch["labels"][:, height:] == IGNORE).all() and (batch["labels"][:, :, width:] == IGNORE).all()
