"""Augmentation: the label goes with the image, padding is ignored, crops are category-limited, all from one seed."""

import time

import numpy as np
import pytest
import torch
from PIL import Image

from tmt.data import IGNORE, Augment, normalise
from tmt.data.transforms import GREY, crop_resized, hue_matrix, jitter, largest_share, pad, saturation_matrix

STILL = {"jitter_probability": 0.0, "flip_probability": 0.0}


def coded(height, width):
    """An image of coarse blocks and its label: red is 12 times the label, so that each shows the other."""
    blocks = np.random.default_rng(0).integers(0, 19, (height // 8, width // 8)).astype(np.uint8)
    label = blocks.repeat(8, axis=0).repeat(8, axis=1)
    return np.stack([label * 12, 255 - label * 12, np.zeros_like(label)], axis=-1), label


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_the_label_follows_the_image(seed, flip):
    image, label = coded(96, 192)
    augment = Augment(crop=(64, 128), scale=(0.9, 2.0), jitter_probability=0.0, flip_probability=flip)
    seen, target = augment(image, label, np.random.default_rng(seed))
    assert seen.shape == (64, 128, 3) and target.shape == (64, 128)
    labelled = target != IGNORE
    agree = np.abs(seen[..., 0].astype(int) - 12 * target.astype(int)) <= 6
    assert agree[labelled].mean() > 0.7  # the rest are block borders, blurred by the resizing
    shifted = np.abs(seen[:, ::-1, 0].astype(int) - 12 * target.astype(int)) <= 6
    assert shifted[labelled].mean() < 0.3


def test_flip_mirrors_both():
    image, label = coded(32, 64)
    fixed = {"crop": (32, 64), "scale": (1.0, 1.0), "jitter_probability": 0.0}
    plain = Augment(flip_probability=0.0, **fixed)(image, label, np.random.default_rng(0))
    mirrored = Augment(flip_probability=1.0, **fixed)(image, label, np.random.default_rng(0))
    np.testing.assert_array_equal(plain[0], image)
    np.testing.assert_array_equal(mirrored[0], image[:, ::-1])
    np.testing.assert_array_equal(mirrored[1], label[:, ::-1])


def test_small_images_are_padded_with_ignore():
    image, label = coded(32, 64)
    seen, target = Augment(crop=(64, 96), scale=(0.5, 0.5), **STILL)(image, label, np.random.default_rng(0))
    assert (target[16:] == IGNORE).all() and (target[:, 32:] == IGNORE).all() and (target[:16, :32] != IGNORE).all()
    assert (seen[16:] == GREY).all() and (seen[:, 32:] == GREY).all()


def test_scale_spans_its_range():
    heights = []
    image, label = coded(32, 64)
    for seed in range(200):
        _, target = Augment(crop=(80, 160), **STILL)(image, label, np.random.default_rng(seed))
        heights.append(int((target[:, 0] != IGNORE).sum()))
    assert min(heights) <= 17 and max(heights) >= 62 and 30 < np.mean(heights) < 50


def test_crops_avoid_one_class_filling_them():
    label = np.zeros((64, 128), dtype=np.uint8)
    label[:, :40] = np.arange(40) // 4  # varied only at the left
    image = np.zeros((64, 128, 3), dtype=np.uint8)
    augment = Augment(crop=(32, 32), scale=(1.0, 1.0), crop_tries=60, **STILL)
    free = Augment(crop=(32, 32), scale=(1.0, 1.0), max_class_share=1.0, **STILL)

    def share(transform, seed):
        return largest_share(
            np.bincount(transform(image, label, np.random.default_rng(seed))[1].ravel(), minlength=256)
        )

    limited, unlimited = ([share(transform, seed) for seed in range(40)] for transform in (augment, free))
    assert max(limited) <= 0.75
    assert max(unlimited) == 1.0


def test_a_hopeless_image_still_gives_a_crop():
    label = np.full((40, 40), IGNORE, dtype=np.uint8)
    _, target = Augment(crop=(32, 32), **STILL)(np.zeros((40, 40, 3), np.uint8), label, np.random.default_rng(0))
    assert target.shape == (32, 32)


def test_one_generator_decides_everything():
    image, label = coded(48, 96)
    augment = Augment(crop=(32, 64))
    first, second, other = (augment(image, label, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert (first[0] != other[0]).any()


def test_jitter_bounds_and_identity():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    identity = np.concatenate((np.eye(3), np.zeros((3, 1))), axis=1).astype(np.float32)
    np.testing.assert_array_equal(jitter(Image.fromarray(image), identity), image)
    coins = [Augment()._colour_matrix(np.random.default_rng(seed)) for seed in range(300)]
    shifts = np.array([matrix[0, 3] for matrix in coins if np.allclose(matrix[:, :3], np.eye(3))])
    assert 0 < np.abs(shifts).max() <= 32 and (np.abs(shifts) == 0).any()


def test_jitter_is_the_affine_map_rounded_and_clipped():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for seed in range(20):
        matrix = Augment()._colour_matrix(np.random.default_rng(seed))
        exact = image @ matrix[:, :3].T.astype(np.float64) + matrix[:, 3]
        assert np.abs(np.array(jitter(Image.fromarray(image), matrix)) - np.clip(exact, 0, 255)).max() <= 0.501


def test_colour_maps_keep_grey_and_turn_hue():
    grey = np.full(3, 0.4)
    np.testing.assert_allclose(hue_matrix(18) @ grey, grey)
    np.testing.assert_allclose(saturation_matrix(0.3) @ grey, grey)
    np.testing.assert_allclose(hue_matrix(120) @ (1, 0, 0), (0, 1, 0), atol=1e-12)
    red = saturation_matrix(0.0) @ (1, 0, 0)
    np.testing.assert_allclose(red, red[0])


def test_crop_of_a_resized_image_is_the_resized_crop():
    image = Image.fromarray(coded(64, 64)[0])
    whole = np.array(crop_resized(image, (96, 96), (0, 0, 96, 96), Image.Resampling.BILINEAR))
    part = np.array(crop_resized(image, (96, 96), (24, 48, 48, 24), Image.Resampling.BILINEAR))
    assert np.abs(whole[24:72, 48:72].astype(int) - part).max() <= 2


def test_pad_leaves_a_full_crop_alone():
    label = np.zeros((4, 4), np.uint8)
    assert pad(label, (4, 4), IGNORE) is label


def test_normalise_is_the_imagenet_scaling():
    image = np.full((2, 3, 3), 255, dtype=np.uint8)
    values = normalise(image)
    assert values.shape == (3, 2, 3) and values.dtype == torch.float32
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(values[:, 0, 0], (1 - mean) / deviation)


def test_augmentation_is_quick():
    image, label = coded(96, 192)
    augment, rng = Augment(crop=(96, 192)), np.random.default_rng(0)
    times = []
    for _ in range(30):
        start = time.process_time()
        augment(image, label, rng)
        times.append(time.process_time() - start)
    assert min(times) < 0.005  # seconds of one core
