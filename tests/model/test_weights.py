"""Files of weights: those of other versions and precisions load, others are refused on one line that names the file."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Mask2FormerForUniversalSegmentation

from tmt.errors import CheckpointError, ConfigError
from tmt.model import TMTForSemanticSegmentation, load_model
from tmt.model.factory import load_estimator, save_estimator

WEIGHTS, PICKLED, INDEX = "model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4011360\n"


def as_version_4(folder: Path) -> None:
    """Make of a plain Mask2Former's weights what transformers 4 would have saved: Swin's last norm, which nothing
    reads, was no part of it, and an index that is computed was a buffer like any other."""
    weights = {name: value for name, value in load_file(folder / WEIGHTS).items() if "swin.layernorm." not in name}
    tables = [name for name in weights if name.endswith("relative_position_bias_table")]
    for name in tables:
        weights.setdefault(name.replace("bias_table", "index"), torch.zeros(16, 16, dtype=torch.int64))
    assert len(tables) == 4
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def test_weights_of_transformers_4_load(build, plain_twin, images, tmp_path):
    plain_twin(build()).save_pretrained(tmp_path)
    as_version_4(tmp_path)
    twin = Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path).eval()
    model = load_model(tmp_path, mask_rule="foreground", transferability=False).eval()
    for name, value in twin.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    with torch.no_grad():
        ours, theirs = model(images), twin(images)
    for name in ("masks_queries_logits", "class_queries_logits"):
        limit = 1e-6 * getattr(theirs, name).abs().max().item()
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=0, atol=limit)


def test_what_parts_ignore_is_no_fault_and_the_rest_is(build, tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    original = load_file(tmp_path / WEIGHTS)
    computed = {name for name, _ in model.named_buffers()} - model.state_dict().keys()  # in old versions none is

    def found(**added):
        kept = {
            name: value for name, value in original.items() if not name.endswith(("swin.layernorm.bias", "fc2.bias"))
        }
        save_file({**kept, **added}, tmp_path / WEIGHTS, metadata={"format": "pt"})
        return TMTForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)[1]

    info = found(**{name: torch.zeros(1, dtype=torch.int64) for name in computed}, more=torch.zeros(1))
    assert info["unexpected_keys"] == {"more"}
    assert info["missing_keys"] and all("fc2.bias" in name or "mlp" in name for name in info["missing_keys"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_precision_become_float32(build, images, tmp_path, dtype):
    model = build()
    model.to(dtype).save_pretrained(tmp_path)
    loaded = load_model(tmp_path).eval()
    assert {value.dtype for value in loaded.state_dict().values() if value.is_floating_point()} == {torch.float32}
    with torch.no_grad():
        expected, found = model.float()(images), loaded(images)
    torch.testing.assert_close(found.masks_queries_logits, expected.masks_queries_logits, rtol=0, atol=0)


class Code:
    """What nobody should unpickle."""

    def __reduce__(self):
        return os.getcwd, ()


def cut(count):
    return lambda file: file.write_bytes(file.read_bytes()[:count])


UNREADABLE = {
    "cut": (WEIGHTS, cut(5000), "damaged, .*, got 5000 bytes; copy or download it again"),
    "cut at its end": (WEIGHTS, cut(-100), "damaged, .*; copy or download it again"),
    "empty": (WEIGHTS, cut(0), "damaged, .*, got 0 bytes; copy or download it again"),
    "pointer": (WEIGHTS, lambda file: file.write_text(POINTER), "got a pointer of Git LFS; run git lfs pull"),
    "folder": (WEIGHTS, lambda file: (file.unlink(), file.mkdir()), "must hold model.safetensors or .*, got neither"),
    "empty pickle": (PICKLED, cut(0), "damaged, .*, got 0 bytes; copy or download it again"),
    "text": (PICKLED, lambda file: file.write_text("hello"), "damaged, .*, got 5 bytes; copy or download it again"),
    "pointer, old": (PICKLED, lambda file: file.write_text(POINTER), "got a pointer of Git LFS; run git lfs pull"),
    "cut pickle": (PICKLED, cut(30000), "damaged, .*, got 30000 bytes; copy or download it again"),
    "code": (PICKLED, lambda file: torch.save({"a": Code()}, file), "must be a state dict that torch.load reads with"),
    "pickle": (PICKLED, lambda file: file.write_bytes(pickle.dumps({"a": 1})), "must be a state dict that torch.load"),
    "list": (PICKLED, lambda file: torch.save([1], file), "must be a dictionary of tensors, got list; save"),
    "nested": (PICKLED, lambda file: torch.save({"m": {}}, file), "must be .*, got a dictionary of dict; save"),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A folder of models that load: "whole", in "parts" and "pickled"."""
    from tests.model.conftest import SIZES, SWIN
    from tmt.model import TMTConfig

    model = TMTForSemanticSegmentation(TMTConfig(**SIZES, backbone_config=dict(SWIN), estimator_hidden=32))
    folder = tmp_path_factory.mktemp("originals")
    for kind in ("whole", "parts", "pickled"):
        model.save_pretrained(folder / kind, max_shard_size="1MB" if kind == "parts" else "5GB")
    (folder / "pickled" / WEIGHTS).unlink()
    torch.save(model.state_dict(), folder / "pickled" / PICKLED)
    return folder


@pytest.fixture
def saved(originals, tmp_path):
    """saved(kind) -> a copy of one of them."""
    return lambda kind: shutil.copytree(originals / kind, tmp_path / kind)


@pytest.mark.parametrize("kind", ["whole", "parts", "pickled"])
def test_originals_load(originals, kind):
    load_model(originals / kind)


def refused(folder, error=CheckpointError):
    with pytest.raises(error) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "damage", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_files_that_cannot_be_read_are_named(saved, name, damage, message):
    folder = saved("pickled" if name == PICKLED else "whole")
    damage(folder / name)
    found = refused(folder)
    assert pytest.RaisesExc(CheckpointError, match=message).matches(CheckpointError(found)), found
    assert "neither" in found or str(folder / name) in found


def test_parts_of_a_model(saved):
    folder = saved("parts")
    index, second = folder / INDEX, sorted(folder.glob("model-*"))[1]
    content = second.read_bytes()
    second.write_bytes(content[:1000])
    assert f"{second}: damaged" in refused(folder)
    second.unlink()
    assert f"{second}: no such file, but {INDEX} names it; copy every file of the model" in refused(folder)
    for text in ("", "[]", "{}", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}'):
        index.write_text(text)
        assert f"{index}: not an index of weights" in refused(folder)
    index.unlink()
    assert "must hold model.safetensors or pytorch_model.bin, got neither" in refused(folder)


@pytest.mark.parametrize("name", ["class_predictor.weight", "estimator.layers.1.bias"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(saved, name, value):
    folder = saved("whole")
    weights = load_file(folder / WEIGHTS)
    weights[name].view(-1)[3] = value
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    count = weights[name].numel()
    assert f"{folder / WEIGHTS}: {name} must be finite, got 1 of {count} values that are not; take" in refused(folder)


def test_weights_of_fewer_bits_are_refused(saved):
    """Without their scales they mean nothing; transformers casts them."""
    folder = saved("whole")
    weights = load_file(folder / WEIGHTS)
    for dtype in (torch.int8, torch.uint8, torch.float8_e4m3fn):
        weights["class_predictor.weight"] = torch.ones(6, 64).to(dtype)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        assert f"class_predictor.weight must be floating, got {str(dtype)[6:]}; save" in refused(folder)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("backbone_config", {"model_type": "nope"}, ConfigError),
        ("hidden_dim", "big", ConfigError),
        ("hidden_dim", None, ConfigError),
        ("dtype", "float15", ConfigError),
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}, CheckpointError),
    ],
)
def test_configurations_that_cannot_be_used_are_named(saved, field, value, error):
    folder = saved("whole")
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    assert str(file) in refused(folder, error)


def test_an_estimator_that_is_not_finite_is_refused(build, tmp_path):
    model, file = build(), tmp_path / "estimator.safetensors"
    model.estimator.layers[0].bias.data[5] = float("nan")
    save_estimator(model.estimator, model.config.settings, file)
    with pytest.raises(CheckpointError, match=rf"{file}: layers.0.bias must be finite, got 1 of 32 values"):
        load_estimator(model, file)
