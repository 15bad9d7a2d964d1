"""One image, one or many passes: windows, scales and mirroring average to what they should, in bounded memory."""

from itertools import accumulate
from pathlib import Path

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
from tmt.inference.sliding_window import plan, segment
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
    found = segment(Reader(), normalise(encode(classes))[None], inference, maps=True)
    assert np.array_equal(found.prediction().numpy(), classes)
    torch.testing.assert_close(found.confidence(), torch.full(classes.shape, 0.9))
    torch.testing.assert_close(found.transferability, torch.from_numpy(classes / 19).float())
    assert found.behaviour.tolist() == [[0.25, 0.75], [0.0, 0.5]]
    assert (found.regions is None) == (inference.flip or inference.window == (16, 24))


def test_scales_are_the_networks_and_scores_the_images() -> None:
    classes = random_classes((8, 12)).repeat(4, 0).repeat(4, 1)
    model = Reader()
    found = segment(model, normalise(encode(classes))[None], InferenceConfig(scales=(0.5, 1.0, 2.0)))
    assert model.seen == [(16, 24), (32, 48), (64, 96)]
    middle = found.prediction().numpy()[2::4, 2::4]  # inside the blocks, where no size mixes classes
    assert found.scores.shape == (19, 32, 48) and (middle == classes[2::4, 2::4]).all()


@pytest.fixture(scope="module")
def model(finished: Path) -> TMTForSemanticSegmentation:
    return TMTForSemanticSegmentation.from_pretrained(finished / "tmt" / "model").eval()


def image(seed: int = 0) -> Tensor:
    return torch.randn(1, 3, 48, 96, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def scores_of(model: TMTForSemanticSegmentation, pixels: Tensor, size: tuple[int, int]) -> Tensor:
    return model.semantic_probabilities(model(pixel_values=pixels), size)[0]


def test_one_pass_is_the_models_own_result(model: TMTForSemanticSegmentation) -> None:
    found = segment(model, image(), maps=True)
    assert torch.equal(found.scores, scores_of(model, image(), (48, 96)))
    assert found.transferability.shape == found.regions.shape == (48, 96)


def test_average_over_scales_mirrors_and_windows_by_hand(model: TMTForSemanticSegmentation) -> None:
    pixels = image()
    found = segment(model, pixels, InferenceConfig(scales=(1.0, 0.5), flip=True))
    half = interpolate(pixels, size=(24, 48), mode="bilinear", antialias=True)
    expected = [scores_of(model, part, (48, 96)) for part in (pixels, half)]
    expected += [scores_of(model, part.flip(-1), (48, 96)).flip(-1) for part in (pixels, half)]
    torch.testing.assert_close(found.scores, torch.stack(expected).mean(0))
    found = segment(model, pixels, InferenceConfig(window=(48, 64), stride=(48, 32)))
    left, right = (scores_of(model, pixels[..., start : start + 64], (48, 64)) for start in (0, 32))
    torch.testing.assert_close(found.scores[..., 32:64], (left[..., 32:] + right[..., :32]) / 2)
    torch.testing.assert_close(found.scores[..., :32], left[..., :32])


@pytest.mark.parametrize("size", [(34, 1), (5, 200), (31, 67)])
def test_sizes_that_no_stride_divides(size: tuple[int, int], model: TMTForSemanticSegmentation) -> None:
    pixels = torch.randn(1, 3, *size)
    found = segment(model, pixels, InferenceConfig(scales=(1.0, 1.3), flip=True), maps=True)
    assert found.scores.shape == (19, *size) and found.scores.isfinite().all()


def peak_of_windows() -> float:
    """The most memory that tensors take at a time, in MiB, while 98 windows are averaged into one map of scores.

    PyTorch's own count: what is resident also depends on what else the machine has memory for.
    """
    model, pixels = Reader(), torch.zeros(1, 3, 1024, 1024)
    inference = InferenceConfig(window=(256, 256), stride=(128, 128), flip=True)
    assert len(plan((1024, 1024), inference)) == 98
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        segment(model, pixels, inference)
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(changes)) / 2**20


def test_memory_is_one_accumulator_and_one_window() -> None:
    accumulator = 19 * 4  # MiB; a window's scores are 4.75 MiB: 465 MiB if all were kept
    used = peak_of_windows()
    assert 0.9 * accumulator < used < 2.5 * accumulator, used  # the rest is what one window takes on its way


def test_one_pass_makes_no_second_accumulator() -> None:
    class Remembering(Reader):
        def semantic_probabilities(self, outputs, size: tuple[int, int]) -> Tensor:
            self.made = super().semantic_probabilities(outputs, size)
            return self.made

    model = Remembering()
    found = segment(model, normalise(encode(random_classes((9, 12))))[None])
    assert found.scores.data_ptr() == model.made.data_ptr()


def test_out_of_memory_says_what_helps() -> None:
    class Greedy(Reader):
        def forward(self, pixel_values: Tensor):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB")

    with pytest.raises(TMTError, match=r"image of 40x60 pixels does not fit .*; use --window"):
        segment(Greedy(), torch.zeros(1, 3, 40, 60))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["class scores", "transferability"])
def test_outputs_that_are_not_finite_are_refused(part: str, value: float) -> None:
    class Overflowing(Reader):
        def forward(self, pixel_values: Tensor):
            outputs = super().forward(pixel_values)
            if part == "transferability":
                outputs.transferability[0, 2, :3] = value
            return outputs

        def semantic_probabilities(self, outputs, size: tuple[int, int]) -> Tensor:
            scores = super().semantic_probabilities(outputs, size)
            if part == "class scores":
                scores[0, 3, 2] = value
            return scores

    pixels = normalise(encode(random_classes((10, 30))))[None]
    with pytest.raises(TMTError, match=rf"x.png: {part} must be finite, got 1% that .*; use another checkpoint$"):
        segment(Overflowing(), pixels, name="x.png")
    with pytest.raises(TMTError, match=r"the image: .*; use --amp false$"):
        segment(Overflowing(), pixels, InferenceConfig(amp=True, window=(10, 20)))
