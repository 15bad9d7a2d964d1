"""Every kind of backbone in a model: trained by two processes, saved, opened; its weights, its scaling, its errors."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig

from tests.helpers import runs
from tests.helpers.tiny_backbones import TINY, save_pretrained_model, tiny
from tests.model.conftest import CLASSES, SIZES
from tmt.data import CITYSCAPES19, IMAGENET, Scaling, normalise
from tmt.errors import CheckpointError, ConfigError
from tmt.model import TMTConfig, TMTForSemanticSegmentation, load_model, masks_from_labels
from tmt.model.factory import new_model
from tmt.settings import ModelConfig, TMTSettings
from tmt.settings.arguments import parse

SHAPES = ((448, 224), (97, 131))
NAMES = sorted(TINY)
FEW = {**SIZES, "encoder_layers": 1, "decoder_layers": 3}
SMALL = {
    "hidden": 32, "ffn": 32, "encoder_ffn": 32, "encoder_layers": 1, "decoder_layers": 2, "attention_heads": 2,
    "queries": 8, "points": 64, "estimator_hidden": 16,
}  # fmt: skip


def train_all(folder: Path, variables: dict[str, str]) -> int:
    """A step of each backbone on this process's own images; the first process saves the models and their results."""
    os.environ.update(variables)
    runs.redirect(folder / "log")
    from tmt.runtime.distributed import join

    with join("cpu") as world:
        for kind in NAMES:
            torch.manual_seed(0)
            model = TMTForSemanticSegmentation(TMTConfig(**FEW, backbone_config=tiny(kind)))
            network = world.wrap(model.train())
            optimizer = torch.optim.AdamW(model.parameter_groups(1e-3, 0.05, 1.0))
            images, labels = sample(world.rank)
            network(images, *masks_from_labels(labels, CLASSES)).loss.backward()
            without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
            assert not without, f"{kind}: DDP would wait for {without}"
            optimizer.step()
            total = sum(float(p.detach().double().sum()) for p in model.parameters())
            assert world.sum(torch.tensor(total, dtype=torch.float64)) / 2 == pytest.approx(total, rel=1e-12), kind
            if world.main:
                model.save_pretrained(folder / kind)
                torch.save(results(model), folder / kind / "results.pt")
    return 0


def sample(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, CLASSES, (2, 5, 6), generator=generator)
    return torch.randn(2, 3, 65, 90, generator=generator), blocks.repeat_interleave(13, 1).repeat_interleave(15, 2)


def results(model: TMTForSemanticSegmentation) -> list[torch.Tensor]:
    """Masks for an image of each shape."""
    model.eval()
    made = (torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(1)) for shape in SHAPES)
    with torch.no_grad():
        return [model(pixels).masks_queries_logits for pixels in made]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(runs.free_port()), "WORLD_SIZE": "2"}
    started = [runs.start(train_all, folder, {**world, "RANK": str(rank)}) for rank in range(2)]
    assert runs.finish_all(started) == [0, 0], (folder / "log").read_text()
    return folder


@pytest.mark.parametrize("kind", NAMES)
def test_trains_saves_and_predicts(trained: Path, kind: str) -> None:
    model = load_model(trained / kind)
    assert model.config.backbone_config.model_type == kind
    found, expected = results(model), torch.load(trained / kind / "results.pt", weights_only=True)
    for one, same, (height, width) in zip(found, expected, SHAPES, strict=True):
        assert one.shape[2:] == (-(-height // 4), -(-width // 4)) and torch.isfinite(one).all()
        torch.testing.assert_close(one, same, rtol=0, atol=0)


def chosen(folder: object, **fields: object) -> TMTForSemanticSegmentation:
    config = ModelConfig(backbone=str(folder), **{**SMALL, **fields})  # type: ignore[arg-type]
    return new_model(config, TMTSettings(estimator_hidden=16), 0, CITYSCAPES19)


def encoder_of(model: TMTForSemanticSegmentation) -> dict[str, torch.Tensor]:
    return model.model.pixel_level_module.encoder.state_dict()


@pytest.mark.parametrize("kind", [name for name in NAMES if name != "tmt_efficientnet_lite"])
def test_pretrained_weights_of_a_classifier_are_used(kind: str, tmp_path: Path) -> None:
    save_pretrained_model(kind, tmp_path)
    saved: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for value in load_file(tmp_path / "model.safetensors").values():
        saved.setdefault(tuple(value.shape), []).append(value)
    for name, value in chosen(tmp_path).model.pixel_level_module.encoder.named_parameters():
        if not name.startswith("hidden_states_norms."):  # some names differ between file and backbone, no value does
            assert any(torch.equal(value, one) for one in saved[tuple(value.shape)]), name


def test_a_folder_without_weights_is_a_configuration(tmp_path: Path) -> None:
    tiny("convnext").save_pretrained(tmp_path)
    first, second = encoder_of(chosen(tmp_path)), encoder_of(chosen(tmp_path, backbone_weights="random"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ConfigError, match="holds a configuration without weights; add them, or set random"):
        chosen(tmp_path, backbone_weights="pretrained")


def test_random_weights_leave_the_folders_alone(tmp_path: Path) -> None:
    save_pretrained_model("convnext", tmp_path)
    name = "embeddings.patch_embeddings.weight"
    pretrained, random = chosen(tmp_path), chosen(tmp_path, backbone_weights="random")
    assert not torch.equal(encoder_of(pretrained)[name], encoder_of(random)[name])
    head = "model.transformer_module.queries_features.weight"  # drawn alike, whatever the backbone starts from
    assert torch.equal(pretrained.state_dict()[head], random.state_dict()[head])


@pytest.mark.parametrize(("change", "trouble"), [("rename", "missing"), ("drop", "missing"), ("add", "unexpected")])
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: str, trouble: str) -> None:
    save_pretrained_model("convnext", tmp_path)
    file = tmp_path / "model.safetensors"
    weights, key = load_file(file), "convnext.encoder.stages.1.layers.0.dwconv.weight"
    value = weights[key] if change == "add" else weights.pop(key)
    if change != "drop":
        weights[key.replace("dwconv", "depthwise")] = value.clone()
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=f"1 {trouble}, the first (convnext.)?encoder.stages.1.layers.0.d"
    ) as caught:
        chosen(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels(tmp_path: Path, channels: int) -> None:
    save_pretrained_model("resnet", tmp_path)
    rgb, other = chosen(tmp_path).eval(), chosen(tmp_path, channels=channels).eval()
    assert len(other.scaling.mean) == other.channels == channels
    value = torch.randn(1, 1, 64, 64)
    given = [value.expand(-1, count, -1, -1) for count in (3, channels)]
    with torch.no_grad():
        maps = [
            model.model.pixel_level_module.encoder(x).feature_maps[0]
            for model, x in zip((rgb, other), given, strict=True)
        ]
    if channels == 1:  # what all three channels showed alike
        torch.testing.assert_close(maps[0], maps[1], rtol=1e-4, atol=1e-5)
    assert maps[0].shape == maps[1].shape


def test_grey_pictures() -> None:
    image = np.full((2, 3, 3), 51, dtype=np.uint8)
    image[0] = (255, 0, 0)
    values = normalise(image, Scaling((0.5,), (0.25,)))
    assert values.shape == (1, 2, 3)
    torch.testing.assert_close(values[0, :, 0], torch.tensor([(0.299 - 0.5) / 0.25, (0.2 - 0.5) / 0.25]))
    with pytest.raises(ConfigError, match="model.channels: must be 3, as pictures have, or 1"):
        parse(["--model.channels", "2"])


def test_scaling_comes_from_the_image_processor_and_travels(tmp_path: Path) -> None:
    save_pretrained_model("resnet", tmp_path)
    scaling = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.25, 0.125], "rescale_factor": 1 / 255}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(scaling))
    model = chosen(tmp_path)
    model.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "preprocessor_config.json").read_text())
    assert saved["image_mean"] == scaling["image_mean"] and saved["image_std"] == scaling["image_std"]
    loaded = load_model(tmp_path / "saved")
    assert loaded.scaling == model.scaling == Scaling((0.1, 0.2, 0.3), (0.5, 0.25, 0.125))
    white = normalise(np.full((1, 1, 3), 255, dtype=np.uint8), loaded.scaling)
    torch.testing.assert_close(white.flatten(), torch.tensor([1.8, 3.2, 5.6]))


def test_scaling_without_an_image_processor_is_imagenets(tmp_path: Path) -> None:
    tiny("resnet").save_pretrained(tmp_path)
    assert chosen(tmp_path).scaling == IMAGENET == TMTConfig().scaling


def test_a_plain_mask2formers_image_processor_counts(build, plain_twin, tmp_path: Path) -> None:
    plain_twin(build("resnet")).save_pretrained(tmp_path)
    assert load_model(tmp_path).scaling == IMAGENET
    unscaled = {"image_mean": [127.5] * 3, "image_std": [255.0] * 3, "do_rescale": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(unscaled))
    assert load_model(tmp_path).scaling == Scaling((0.5,) * 3, (1.0,) * 3)


ERRORS = {
    "facebook/convnext-tiny-224": "the hub cannot be reached for a model of that id, got facebook/convnext-tiny-224; "
    "download it elsewhere and give its folder",
    "a/b/c": "no such folder, got a/b/c",
}


@pytest.mark.parametrize("name", ERRORS)
def test_names_that_lead_nowhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        chosen(name)
    assert ERRORS[name] in str(caught.value) and "\n" not in str(caught.value)


def test_misspelt_names_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="hub id such as .* or a folder, got resnet51; did you mean resnet50"):
        parse(["--model.backbone", "resnet51"])
    with pytest.raises(ConfigError, match="there are none for swin, whose sizes are settings"):
        parse(["--model.backbone_weights", "pretrained"])


def test_folders_of_other_things_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must hold config.json"):
        chosen(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not a model's configuration"):
        chosen(tmp_path)
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="one that transformers has as a backbone, .* got bert"):
        chosen(tmp_path)


def test_maps_of_other_strides_are_refused(tmp_path: Path) -> None:
    tiny("resnet", hidden_sizes=[8, 16, 24], depths=[1, 1, 1]).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="at strides 4, 8, 16 and 32, or all at one stride, got 4, 8, 16 of resnet"):
        chosen(tmp_path)


def test_a_patch_that_fits_no_stride_is_refused(tmp_path: Path) -> None:
    tiny("dinov2", patch_size=12, image_size=60).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="0.8 to 1.25 times one of 4, 8, 16, 32 pixels, got 12"):
        chosen(tmp_path)


def test_a_frozen_backbone_keeps_everything(tmp_path: Path) -> None:
    save_pretrained_model("resnet", tmp_path)
    model = new_model(
        ModelConfig(backbone=str(tmp_path), **SMALL),
        TMTSettings(estimator_hidden=16, freeze_backbone=True),
        0,
        CITYSCAPES19,
    ).train()
    before = {name: value.clone() for name, value in encoder_of(model).items()}
    images, labels = sample(0)
    optimizer = torch.optim.AdamW(model.parameter_groups(1e-2, 0.05, 1.0))
    model(images, *masks_from_labels(labels, 19)).loss.backward()
    optimizer.step()
    assert {group["name"] for group in optimizer.param_groups} == {"head", "head_no_decay"}
    assert all(torch.equal(value, before[name]) for name, value in encoder_of(model).items())
    model.save_pretrained(tmp_path / "saved")
    assert not any(
        p.requires_grad for p in load_model(tmp_path / "saved").model.pixel_level_module.encoder.parameters()
    )


def test_frozen_batch_norms_keep_weights_and_statistics(build, images, labels) -> None:
    model = build("resnet", freeze_backbone_norms=True).train()
    before = {name: value.clone() for name, value in encoder_of(model).items()}
    optimizer = torch.optim.AdamW(model.parameter_groups(1e-2, 0.05, 1.0))
    model(images, *masks_from_labels(labels, CLASSES)).loss.backward()
    optimizer.step()
    after = encoder_of(model)
    kept = {name for name in after if torch.equal(after[name], before[name])}
    assert kept == {name for name in after if "normalization" in name}
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_rates_fall_layer_by_layer(build) -> None:
    model = build("swin")
    names = {id(p): name.split("encoder.", 1)[-1] for name, p in model.named_parameters()}
    groups = model.parameter_groups(1e-3, 0.05, 0.1, 0.5)
    rates = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    assert len(rates) == sum(len(group["params"]) for group in groups)
    last = rates["swin.encoder.layers.3.blocks.0.mlp.fc1.weight"]
    assert last == rates["hidden_states_norms.stage1.weight"] == pytest.approx(1e-4)
    assert rates["swin.encoder.layers.2.downsample.reduction.weight"] == pytest.approx(0.5e-4)
    assert rates["swin.encoder.layers.2.blocks.0.mlp.fc1.weight"] == pytest.approx(0.25e-4)
    assert rates["swin.embeddings.patch_embeddings.projection.weight"] == min(rates.values())
    assert {group["lr"] for group in groups if group["name"].startswith("head")} == {1e-3}
