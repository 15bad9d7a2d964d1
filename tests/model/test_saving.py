"""Folders: plain Mask2Former's, our own, and those that must be refused; transformers' Auto classes and pipeline."""

import json
import logging

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForUniversalSegmentation, BertConfig, BertModel, pipeline

import tmt
from tmt.errors import CheckpointError, ConfigError
from tmt.model import TMTConfig, TMTForSemanticSegmentation, load_model


def test_plain_folder_loads_with_only_the_estimator_missing(build, plain_twin, images, tmp_path):
    twin = plain_twin(build())
    twin.save_pretrained(tmp_path)
    model, info = TMTForSemanticSegmentation.from_pretrained(
        tmp_path, mask_rule="foreground", transferability=False, output_loading_info=True
    )
    missing = set(info["missing_keys"])
    assert missing == {name for name in model.state_dict() if name.startswith("estimator.")}
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    with torch.no_grad():
        ours, theirs = model.eval()(images), twin(images)
    torch.testing.assert_close(ours.class_queries_logits, theirs.class_queries_logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.masks_queries_logits, theirs.masks_queries_logits, rtol=1e-5, atol=1e-5)


def test_round_trip_keeps_weights_settings_and_outputs(build, images, tmp_path):
    model = build(transfer_fraction=0.2)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path).eval()
    assert loaded.config.transfer_fraction == 0.2
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)
    with torch.no_grad():
        before, after = model(images), loaded(images)
    torch.testing.assert_close(before.transferability, after.transferability, rtol=0, atol=0)
    torch.testing.assert_close(before.masks_queries_logits, after.masks_queries_logits, rtol=0, atol=0)


def test_loading_keeps_frozen_what_is_frozen(build, tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert {name for name, p in load_model(tmp_path).named_parameters() if not p.requires_grad} == frozen
    assert any(name.startswith("estimator.") for name in frozen)


def test_auto_classes_find_the_model(build, tmp_path):
    build().save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is tmt.TMTConfig is TMTConfig
    for auto in (AutoModel, AutoModelForUniversalSegmentation):
        assert type(auto.from_pretrained(tmp_path)) is tmt.TMTForSemanticSegmentation


def test_pipeline_segments_a_picture(build, tmp_path):
    names = {0: "road", 1: "building", 2: "sky", 3: "person", 4: "car"}
    model = build(id2label=names, label2id={name: i for i, name in names.items()})
    model.save_pretrained(tmp_path)
    complaints = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: complaints.append(record.getMessage())
    logging.getLogger("transformers").addHandler(handler)
    segment = pipeline("image-segmentation", model=str(tmp_path))
    picture = Image.fromarray(torch.randint(0, 256, (97, 131, 3), dtype=torch.uint8).numpy())
    found = segment(picture, subtask="semantic")
    logging.getLogger("transformers").removeHandler(handler)
    assert not complaints
    assert found and {part["label"] for part in found} <= set(names.values())
    assert all(part["mask"].size == (131, 97) for part in found)
    assert sum(sum(part["mask"].histogram()[1:]) for part in found) == 97 * 131  # every pixel has one class
    assert isinstance(segment(picture), list)  # panoptic, the pipeline's default


def test_processor_normalises_as_training_does(build, tmp_path):
    from tmt.model import image_processor

    white = Image.new("RGB", (131, 97), (255, 0, 51))
    pixels = image_processor()(white, return_tensors="pt")["pixel_values"]
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = ((torch.tensor([1.0, 0.0, 0.2]) - mean) / deviation).view(1, 3, 1, 1).expand(1, 3, 97, 131)
    torch.testing.assert_close(torch.as_tensor(pixels).float(), expected, rtol=1e-5, atol=1e-5)


def test_source_features_are_frozen_and_saved(build, images, tmp_path):
    model = build()
    with torch.no_grad():
        live = model(images).transferability
    model.freeze_source_features()
    for parameter in model.model.pixel_level_module.decoder.parameters():
        parameter.data.add_(0.05)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert not any(parameter.requires_grad for parameter in loaded.source_features.parameters())
    assert not loaded.train().source_features.training
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(images).transferability, live)
        assert not torch.allclose(load_model(tmp_path, transfer_features="live").eval()(images).transferability, live)


def test_transferability_in_training_only_is_saved(build, images, tmp_path):
    build(transfer_at_inference=False).save_pretrained(tmp_path)
    model = load_model(tmp_path)
    with torch.no_grad():
        assert model.train()(images).transferability is not None
        off = model.eval()(images)
        without = load_model(tmp_path, transferability=False).eval()(images)
        used = load_model(tmp_path, transfer_at_inference=True).eval()(images)
        given = model(images, transferability=used.transferability)
    assert off.transferability is None and used.transferability is not None
    assert torch.equal(off.masks_queries_logits, without.masks_queries_logits)
    assert not torch.allclose(used.masks_queries_logits, without.masks_queries_logits)
    assert torch.equal(given.masks_queries_logits, used.masks_queries_logits)


def test_source_features_start_as_the_loaded_ones(build, images, tmp_path):
    build().save_pretrained(tmp_path)
    with torch.no_grad():
        live = load_model(tmp_path).eval()(images).transferability
        source = load_model(tmp_path, transfer_features="source").eval()(images).transferability
    torch.testing.assert_close(source, live)


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="config.json: no such file; give the folder"):
        load_model(tmp_path / "nowhere")


def test_other_architecture_is_refused(tmp_path):
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=50)
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="model_type must be one of tmt, mask2former, got 'bert'"):
        load_model(tmp_path)


@pytest.mark.parametrize(("field", "value"), [("hidden_dim", 32), ("decoder_layers", 4), ("decoder_layers", 6)])
def test_weights_of_other_sizes_are_refused(build, tmp_path, field, value):
    build().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_overridden_size_is_named(build, tmp_path):
    build(estimator_hidden=16).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="other sizes: estimator_hidden was 16 and is 64"):
        load_model(tmp_path, estimator_hidden=64, mask_rule="none")


def test_damaged_files_are_refused(build, tmp_path):
    build().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        load_model(tmp_path)


def test_bad_overrides_are_refused(build, tmp_path):
    build().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="mask_rule must be one of"):
        load_model(tmp_path, mask_rule="maybe")
    with pytest.raises(ConfigError, match="mask_ruel: no such field"):
        load_model(tmp_path, mask_ruel="foreground")
