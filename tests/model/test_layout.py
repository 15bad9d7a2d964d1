"""What a dry run finds of a backbone, and the pyramid of plain transformers."""

import pytest
import torch
from transformers import AutoBackbone

from tests.helpers.tiny_backbones import tiny
from tmt.model.layout import PROBE, STRIDES, _layout_of, layout_of, maps_of, nominal_stride, reached_by
from tmt.model.pyramid import Pyramid

PYRAMIDS = ("swin", "swinv2", "convnext", "convnextv2", "resnet", "pvt_v2", "focalnet", "hiera", "dinov3_convnext")


@pytest.mark.parametrize("kind", PYRAMIDS)
def test_four_maps_are_found(kind: str) -> None:
    config = tiny(kind)
    layout = layout_of(config)
    assert layout.strides == (4, 8, 16, 32) and not layout.plain
    config.out_features = list(layout.features)
    backbone = AutoBackbone.from_config(config).eval()
    maps = maps_of(backbone, layout, torch.randn(1, 3, 97, 131))
    assert [tuple(one.shape[1:]) for one in maps] == [
        (channels, -(-97 // stride), -(-131 // stride))
        for channels, stride in zip(layout.channels, layout.strides, strict=True)
    ]


def test_images_are_padded_only_where_a_backbone_rounds_down() -> None:
    assert layout_of(tiny("swin")).multiple == layout_of(tiny("resnet")).multiple == (1, 1)
    assert layout_of(tiny("convnext")).multiple == (32, 32)
    assert layout_of(tiny("dinov2")).multiple == (14, 14)
    assert layout_of(tiny("dinov3_vit")).multiple == (16, 16)


def test_chosen_features_are_kept() -> None:
    assert layout_of(tiny("dinov2", out_features=["stage1"])).features == ("stage1",)
    assert layout_of(tiny("swin")).features == ("stage1", "stage2", "stage3", "stage4")
    assert layout_of(tiny("swin", out_features=["stem", "stage2", "stage3", "stage4"])).features[0] == "stem"


@pytest.mark.parametrize(
    ("kind", "unused"),
    [
        ("swin", {"swin.layernorm.weight", "swin.layernorm.bias"}),
        ("dinov2", {"embeddings.mask_token"}),
        ("resnet", set()),
    ],
)
def test_weights_without_a_gradient_are_those_of_a_real_backward(kind: str, unused: set[str]) -> None:
    config = tiny(kind)
    layout = layout_of(config)
    assert layout.unused == unused
    config.out_features = list(layout.features)
    backbone = AutoBackbone.from_config(config)
    sum(one.sum() for one in backbone(torch.randn(1, 3, 64, 64)).feature_maps).backward()
    assert {name for name, p in backbone.named_parameters() if p.grad is None} == layout.unused


def test_reached_leaves() -> None:
    a, b, c = (torch.ones(2, requires_grad=True) for _ in range(3))
    assert reached_by([(a * 2 + b.detach()).sum(), b.exp()]) == {id(a), id(b)}
    assert id(c) not in reached_by([a + 1, torch.ones(1)])


def test_a_dry_run_draws_no_random_number() -> None:
    layout_of.__globals__["_layout_of"].cache_clear()
    before = torch.get_rng_state()
    layout_of(tiny("swinv2"))
    assert torch.equal(torch.get_rng_state(), before) and PROBE[0] % 4


def test_tiles_are_put_together_where_they_were() -> None:
    """Hiera sees images of one size: a larger one is as good as its tiles one by one."""
    config = tiny("hiera")
    layout = layout_of(config)
    assert layout.tiled and layout.multiple == (64, 64)
    config.out_features = list(layout.features)
    backbone, image = AutoBackbone.from_config(config).eval(), torch.randn(2, 3, 128, 192)
    with torch.no_grad():
        maps = maps_of(backbone, layout, image)
        one = backbone(image[1:, :, 64:, 128:]).feature_maps
    for whole, part, stride in zip(maps, one, layout.strides, strict=True):
        side = 64 // stride
        torch.testing.assert_close(whole[1:, :, side:, 2 * side :], part)


@pytest.mark.parametrize("patch", [7, 8, 14, 16, 32])
def test_pyramid_shapes(patch: int) -> None:
    pyramid = Pyramid(16, patch)
    x = torch.randn(2, 16, -(-97 // patch), -(-131 // patch))
    maps = pyramid(x, (97, 131))
    assert [tuple(one.shape) for one in maps] == [
        (2, channels, -(-97 // stride), -(-131 // stride))
        for channels, stride in zip(pyramid.channels, STRIDES, strict=True)
    ]


def test_resized_maps_have_what_lies_at_their_place() -> None:
    """Of a map whose values are where its positions lie in the image, every level has the places of its own."""
    pyramid, patch, size = Pyramid(1, 14), 14, (140, 280)
    places = (torch.arange(size[1] // patch) + 0.5) * patch
    same = pyramid(places.expand(1, 1, size[0] // patch, -1), size)[2]  # stride 16, neither enlarged nor pooled
    expected = (torch.arange(same.shape[3]) + 0.5) * 16
    inside = (expected >= places[0]) & (expected <= places[-1])
    torch.testing.assert_close(same[0, 0, 3][inside], expected[inside])
    assert inside.sum() == same.shape[3] - 1


@pytest.mark.parametrize(("patch", "stride"), [(7, 8), (8, 8), (10, 8), (14, 16), (16, 16), (20, 16), (28, 32)])
def test_nominal_strides(patch: int, stride: int) -> None:
    assert nominal_stride(patch) == stride


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_is_unused_does_not_hang_on_who_asks_first(mode: type) -> None:
    _layout_of.cache_clear()
    with mode():
        unused = layout_of(tiny("swin")).unused
    assert unused == {"swin.layernorm.weight", "swin.layernorm.bias"}
