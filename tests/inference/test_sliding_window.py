"""One image, one or many passes: windows, scales and mirroring average to what they should, in bounded memory."""

import math
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from tests.helpers.reader_model import Reader, encode
from tmt import TMTForSemanticSegmentation
from tmt.data import normalise
from tmt.errors import TMTError
from tmt.inference.sliding_window import plan, segment, segment_batch
from tmt.model import semantic
from tmt.settings import InferenceConfig

sides = st.integers(1, 70)


@settings(max_examples=150, deadline=None)
@given(size=st.tuples(sides, sides), window=st.tuples(sides, sides), data=st.data())
def test_weights_add_up_to_one_everywhere(size: tuple[int, int], window: tuple[int, int], data) -> None:
    stride = data.draw(st.none() | st.tuples(*(st.integers(1, side) for side in window)))
    scales = tuple(data.draw(st.lists(st.sampled_from((0.3, 0.5, 1.0, 1.7, 2.0)), min_size=1, max_size=2)))
    inference = InferenceConfig(window=window, stride=stride, scales=scales, flip=data.draw(st.booleans()))
    total = torch.zeros(size)
    for one in plan(size, inference):
        total[one.rows.slice, one.columns.slice] += torch.outer(one.rows.share, one.columns.share) * one.part
        assert all(seen <= side + 1 for seen, side in zip(one.size, window, strict=True))
    torch.testing.assert_close(total, torch.ones(size), rtol=0, atol=1e-4)  # of up to 1521 windows a pixel


def test_windows_are_where_they_should_be() -> None:
    passes = plan((10, 25), InferenceConfig(window=(10, 10), stride=(10, 6)))
    assert [(one.columns.start, one.columns.stop) for one in passes] == [(0, 10), (6, 16), (12, 22), (15, 25)]
    passes = plan((9, 40), InferenceConfig(window=(12, 12)))  # steps of 8; higher than the image: cut to it
    assert [(one.rows.stop, one.columns.start, one.size) for one in passes] == [
        (9, start, (9, 12)) for start in (0, 8, 16, 24, 28)
    ]
    passes = plan((40, 40), InferenceConfig(window=(20, 20), stride=(20, 20), scales=(2.0,)))
    assert len(passes) == 16 and all(one.size == (20, 20) and one.extent == (10, 10) for one in passes)


def random_classes(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 19, size)


@pytest.mark.parametrize(
    "inference",
    [
        InferenceConfig(),
        InferenceConfig(flip=True),
        InferenceConfig(window=(16, 24)),
        InferenceConfig(window=(16, 24), stride=(5, 24), flip=True),
        InferenceConfig(window=(64, 64), stride=(1, 1)),
    ],
)
def test_every_way_reads_the_same_image(inference: InferenceConfig) -> None:
    """A model that judges each pixel by itself gives the same scores whichever passes are averaged."""
    classes = random_classes((37, 53))
    found = segment(Reader(), normalise(encode(classes))[None], inference, maps=True, confidence=True)
    assert np.array_equal(found.prediction.numpy(), classes)
    torch.testing.assert_close(found.confidence, torch.full(classes.shape, 0.9))
    torch.testing.assert_close(found.transferability, torch.from_numpy(classes / 19).float())
    assert found.behaviour.tolist() == [[0.25, 0.75], [0.0, 0.5]]
    assert (found.regions is None) == (inference.flip or inference.window == (16, 24))


def test_scales_are_the_networks_and_scores_the_images() -> None:
    classes = random_classes((8, 12)).repeat(4, 0).repeat(4, 1)
    model = Reader()
    found = segment(model, normalise(encode(classes))[None], InferenceConfig(scales=(0.5, 1.0, 2.0)))
    assert model.seen == [(16, 24), (32, 48), (64, 96)]
    middle = found.prediction.numpy()[2::4, 2::4]  # inside the blocks, where no size mixes classes
    assert found.prediction.shape == (32, 48) and (middle == classes[2::4, 2::4]).all()


@pytest.fixture(scope="module")
def model(finished: Path) -> TMTForSemanticSegmentation:
    return TMTForSemanticSegmentation.from_pretrained(finished / "tmt" / "model").eval()


def image(seed: int = 0) -> Tensor:
    return torch.randn(1, 3, 48, 96, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def scores_of(model: TMTForSemanticSegmentation, pixels: Tensor, size: tuple[int, int]) -> Tensor:
    return model.semantic_probabilities(model(pixel_values=pixels), size)[0]


@torch.no_grad()
def by_hand(model: TMTForSemanticSegmentation, pixels: Tensor, inference: InferenceConfig) -> Tensor:
    """The mean of the class scores (K, H, W), whole maps in memory, pass after pass."""
    total = torch.zeros(model.config.num_labels, *pixels.shape[-2:])
    for one in plan((pixels.shape[-2], pixels.shape[-1]), inference):
        part = pixels[..., one.rows.slice, one.columns.slice]
        if one.size != one.extent:
            part = interpolate(part, size=one.size, mode="bilinear", antialias=True)
        scores = (
            scores_of(model, part.flip(-1), one.extent).flip(-1) if one.flip else scores_of(model, part, one.extent)
        )
        weight = torch.outer(one.rows.share * one.part, one.columns.share)
        total[:, one.rows.slice, one.columns.slice] += scores * weight
    return total


WAYS = [
    InferenceConfig(),
    InferenceConfig(flip=True),
    InferenceConfig(scales=(1.0, 0.5, 1.3), flip=True),
    InferenceConfig(window=(20, 40)),
    InferenceConfig(window=(20, 40), stride=(7, 40), flip=True),
    InferenceConfig(window=(33, 40), scales=(0.7, 1.5), flip=True),
]


@pytest.mark.parametrize("strip", [1, 8 * 96 * 5, 1 << 22])
@pytest.mark.parametrize("inference", WAYS)
def test_bands_give_the_bits_of_whole_maps(
    inference: InferenceConfig, strip: int, model: TMTForSemanticSegmentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semantic, "STRIP", strip)
    expected = by_hand(model, image(), inference)
    found = segment(model, image(), inference, maps=True, confidence=True)
    assert torch.equal(found.prediction, expected.argmax(0))
    assert torch.equal(found.confidence, expected.amax(0) / expected.sum(0))
    assert found.transferability.shape == (48, 96)


def test_images_together_are_as_alone(model: TMTForSemanticSegmentation) -> None:
    pixels = torch.cat([image(seed) for seed in range(3)])
    inference = InferenceConfig(window=(33, 40), scales=(0.7, 1.5), flip=True)
    together = segment_batch(model, pixels, ("a", "b", "c"), inference, maps=True, confidence=True)
    for one, found in zip(pixels, together, strict=True):
        alone = segment(model, one[None], inference, maps=True, confidence=True)
        assert torch.equal(found.prediction, alone.prediction)
        torch.testing.assert_close(found.confidence, alone.confidence)
        torch.testing.assert_close(found.transferability, alone.transferability)
        torch.testing.assert_close(found.behaviour, alone.behaviour)


@pytest.mark.parametrize("size", [(34, 1), (5, 200), (31, 67)])
def test_sizes_that_no_stride_divides(size: tuple[int, int], model: TMTForSemanticSegmentation) -> None:
    pixels = torch.randn(1, 3, *size)
    found = segment(model, pixels, InferenceConfig(scales=(1.0, 1.3), flip=True), maps=True)
    assert found.prediction.shape == found.transferability.shape == size


class Small(Reader):
    """Queries of random masks at a quarter of the image's size, and no other memory: what remains is `segment`'s."""

    def __init__(self, classes: int, queries: int = 100):
        super().__init__()
        self.class_logits = torch.randn(1, queries, classes + 1)

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        height, width = (math.ceil(side / 4) for side in pixel_values.shape[-2:])
        return SimpleNamespace(
            class_queries_logits=self.class_logits, transferability=None,
            masks_queries_logits=torch.zeros(1, self.class_logits.shape[1], height, width),
            allowed_fraction=torch.ones(1, 2), fallback_rate=torch.zeros(1, 2),
        )  # fmt: skip


def peak(size: tuple[int, int], inference: InferenceConfig, classes: int) -> float:
    """The most memory that tensors take at a time, in MiB, while an image is segmented.

    PyTorch's own count: what is resident also depends on what else the machine has memory for.
    """
    model, pixels = Small(classes), torch.zeros(1, 3, *size)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        segment(model, pixels, inference, confidence=True)
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(changes)) / 2**20


def test_memory_of_a_large_image_with_many_classes() -> None:
    """One map of scores would be 2416 MiB; mask logits are 101, prediction and confidence 48."""
    used = peak((2943, 1435), InferenceConfig(), 150)
    assert 140 < used < 320, used


def test_memory_of_windows_is_that_of_two_rows_of_them() -> None:
    """Mask logits of all 98 windows would be 157 MiB, and twice that if the image were twice as high."""
    inference = InferenceConfig(window=(256, 256), stride=(128, 128), flip=True)
    assert len(plan((1024, 1024), inference)) == 98
    once, twice = peak((1024, 1024), inference, 19), peak((2048, 1024), inference, 19)
    assert once < 160 and twice - once < 20, (once, twice)  # 12 MiB of prediction and confidence are added


def test_out_of_memory_says_what_helps() -> None:
    class Greedy(Reader):
        def forward(self, pixel_values: Tensor):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB")

    with pytest.raises(TMTError, match=r"image of 40x60 pixels does not fit .*; use --window"):
        segment(Greedy(), torch.zeros(1, 3, 40, 60))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part, share", [("class scores", 100), ("transferability", 1)])
def test_outputs_that_are_not_finite_are_refused(part: str, share: int, value: float) -> None:
    class Overflowing(Reader):
        def forward(self, pixel_values: Tensor):
            outputs = super().forward(pixel_values)
            if part == "transferability":
                outputs.transferability[0, 2, :3] = value
            else:
                outputs.class_queries_logits[0, 3, 2] = value
            return outputs

    pixels = normalise(encode(random_classes((10, 30))))[None]
    with pytest.raises(TMTError, match=rf"x.png: {part} must be finite, got {share}% that .*; use another checkpoint$"):
        segment(Overflowing(), pixels, name="x.png")
    with pytest.raises(TMTError, match=r"the image: .*; use --amp false$"):
        segment(Overflowing(), pixels, InferenceConfig(amp=True, window=(10, 20)))


def test_one_pixel_that_is_not_finite_is_refused_in_any_band(monkeypatch: pytest.MonkeyPatch) -> None:
    class Overflowing(Reader):
        def forward(self, pixel_values: Tensor):
            outputs = super().forward(pixel_values)
            outputs.masks_queries_logits[-1, 0, 8, 7] = float("nan")
            return outputs

    monkeypatch.setattr(semantic, "STRIP", 2 * 30 * 19)
    pixels = normalise(encode(random_classes((10, 30))))[None]
    with pytest.raises(TMTError, match="b.png: class scores must be finite, got 2% that are not"):  # of two rows
        segment_batch(Overflowing(), pixels.repeat(2, 1, 1, 1), ("a.png", "b.png"))
