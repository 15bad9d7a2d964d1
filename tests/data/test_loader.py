"""The training sequence: one function of seed and position, whatever the workers, the processes and the start."""

import hashlib

import numpy as np
import pytest
import torch

from tmt.data import Augment, Scaling, eval_batches, open_dataset, train_batches
from tmt.errors import DataError

AUGMENT = Augment(crop=(32, 64))


@pytest.fixture
def dataset(made):
    return open_dataset("gtav", made["gtav"], "train")


def same(left, right):
    assert left["names"] == right["names"]
    for key in ("pixel_values", "labels", "sample_seeds"):
        assert torch.equal(left[key], right[key])


def test_batches_have_the_stated_shapes(dataset):
    (batch,) = train_batches(dataset, AUGMENT, 4, seed=0, steps=1)
    assert batch["pixel_values"].shape == (4, 3, 32, 64) and batch["pixel_values"].dtype == torch.float32
    assert batch["labels"].shape == (4, 32, 64) and batch["labels"].dtype == torch.int64
    assert batch["sample_seeds"].shape == (4,) and batch["sample_seeds"].dtype == torch.int64
    assert (batch["sample_seeds"] >= 0).all() and len(set(batch["sample_seeds"].tolist())) == 4


def test_pixels_are_scaled_as_the_model_wants_them(dataset):
    whole = Scaling((0.0,) * 3, (1 / 255,) * 3)
    for batches in (lambda scaling: train_batches(dataset, AUGMENT, 2, 0, scaling=scaling),
                    lambda scaling: eval_batches(dataset, scaling=scaling)):  # fmt: skip
        pixels = next(batches(whole))["pixel_values"]
        assert torch.equal(pixels, pixels.round()) and pixels.max() > 100
        found = next(batches(Scaling((0.5,) * 3, (0.25,) * 3)))["pixel_values"]
        torch.testing.assert_close(found, (pixels / 255 - 0.5) / 0.25)


def test_workers_do_not_change_the_samples(dataset):
    alone = list(train_batches(dataset, AUGMENT, 4, seed=0, steps=5))
    helped = list(train_batches(dataset, AUGMENT, 4, seed=0, steps=5, workers=2))
    assert len(alone) == len(helped) == 5
    for left, right in zip(alone, helped, strict=True):
        same(left, right)


def first_samples(dataset, workers, start=0):
    """Hashes of the samples from step `start` to the 200th sample."""
    found = []
    for batch in train_batches(dataset, AUGMENT, 8, seed=3, start_step=start, steps=25, workers=workers):
        for index, name in enumerate(batch["names"]):
            tensors = [batch[key][index] for key in ("pixel_values", "labels", "sample_seeds")]
            content = name.encode() + b"".join(tensor.numpy().tobytes() for tensor in tensors)
            found.append(hashlib.sha256(content).hexdigest())
    return found


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more processes than processors, on purpose
def test_the_first_200_samples_are_the_same_with_any_workers_and_after_a_resume(dataset):
    alone = first_samples(dataset, 0)
    assert len(alone) == len(set(alone)) == 200
    assert first_samples(dataset, 2) == alone and first_samples(dataset, 4) == alone
    assert alone[:88] + first_samples(dataset, 2, start=11) == alone


@pytest.mark.parametrize("workers", [0, 2])
def test_a_wrong_file_is_one_line_from_any_process(gtav, workers):
    path = gtav / "labels" / "00003.png"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=rf"^{path}: must be a complete image file, got an empty file; [^\n]*$"):
        list(train_batches(open_dataset("gtav", gtav, "train"), AUGMENT, 6, seed=0, workers=workers))


def test_processes_share_each_global_batch_in_order(dataset):
    whole = train_batches(dataset, AUGMENT, 4, seed=0, steps=4)
    parts = [train_batches(dataset, AUGMENT, 4, seed=0, steps=4, rank=rank, world_size=2) for rank in range(2)]
    for batch, low, high in zip(whole, *parts, strict=True):
        union = {key: torch.cat((low[key], high[key])) for key in ("pixel_values", "labels", "sample_seeds")}
        same(batch, union | {"names": low["names"] + high["names"]})


def test_a_later_start_continues_the_sequence(dataset):
    whole = list(train_batches(dataset, AUGMENT, 4, seed=0, steps=6))
    rest = list(train_batches(dataset, AUGMENT, 4, seed=0, start_step=4, steps=6))
    assert len(rest) == 2
    for left, right in zip(whole[4:], rest, strict=True):
        same(left, right)


def test_every_epoch_visits_every_sample_in_another_order_and_look(dataset):
    batches = list(train_batches(dataset, AUGMENT, 3, seed=0, steps=8))
    names = [name for batch in batches for name in batch["names"]]
    epochs = [names[start : start + 6] for start in range(0, 24, 6)]
    assert all(sorted(epoch) == dataset.names for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    pixels = torch.cat([batch["pixel_values"] for batch in batches])
    looks = [pixels[index] for index, name in enumerate(names) if name == names[0]]
    assert not torch.equal(looks[0], looks[1])


def test_seeds_differ(dataset):
    first, second = (next(train_batches(dataset, AUGMENT, 6, seed=seed)) for seed in (0, 1))
    assert first["names"] != second["names"]
    assert not set(first["sample_seeds"].tolist()) & set(second["sample_seeds"].tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_random_state_is_left_alone(dataset, workers):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(train_batches(dataset, AUGMENT, 2, seed=0, steps=2, workers=workers))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("batch_size", "world_size"), [(0, 1), (3, 2)])
def test_a_batch_that_cannot_be_split_is_refused(dataset, batch_size, world_size):
    with pytest.raises(DataError, match="batch_size must be a positive multiple"):
        train_batches(dataset, AUGMENT, batch_size, seed=0, world_size=world_size)


def test_an_empty_dataset_is_refused():
    with pytest.raises(DataError, match="dataset must hold samples"):
        train_batches([], AUGMENT, 4, seed=0)


def test_evaluation_sees_every_image_once_and_unchanged(made):
    dataset = open_dataset("gtav", made["gtav"], "val")
    batches = [batch for rank in range(2) for batch in eval_batches(dataset, rank, 2)]
    assert sorted(batch["names"][0] for batch in batches) == dataset.names
    sample, batch = dataset[0], batches[0]
    np.testing.assert_array_equal(batch["labels"][0].numpy(), sample.label)
    assert batch["pixel_values"].shape == (1, 3, 32, 64)
