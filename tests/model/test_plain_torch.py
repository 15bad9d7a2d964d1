"""The whole model on plain PyTorch: exported, to torch and to ONNX, with the same labels as the compiled operators'."""

import pytest
import torch

import tmt_ext
from tests.helpers.logits import Logits


@pytest.fixture
def logits(build):
    """Of a model whose classes differ enough from image to image that several win."""
    model = build("resnet", decoder_layers=3, encoder_layers=1)
    with torch.no_grad():
        model.class_predictor.weight.mul_(200)
    return Logits(model)


def labels(class_logits, mask_logits):
    """(B, H, W) of the most probable class at each pixel."""
    classes = class_logits.softmax(-1)[..., :-1]
    return torch.einsum("bqc,bqhw->bchw", classes, mask_logits.sigmoid()).argmax(1)


def images(seed):
    return torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(seed))


def assert_same_labels(run, logits):
    with torch.no_grad():
        expected = [labels(*logits(images(seed))) for seed in range(4)]
        found = [labels(*run(images(seed))) for seed in range(4)]
    assert len(torch.cat(expected).unique()) > 1
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@torch.no_grad()
def test_exported_to_torch(logits):
    with tmt_ext.plain_torch():
        program = torch.export.export(logits, (images(0),))
    assert not any("tmt" in str(node.target) for node in program.graph.nodes if node.op == "call_function")
    assert_same_labels(program.module(), logits)


@torch.no_grad()
def test_exported_to_onnx(logits, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    with tmt_ext.plain_torch():
        torch.onnx.export(logits, (images(0),), dynamo=True, verbose=False).save(tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    name = session.get_inputs()[0].name
    assert_same_labels(lambda x: [torch.from_numpy(y) for y in session.run(None, {name: x.numpy()})], logits)
