"""The switch to plain PyTorch: the same results as the kernels, for whom it holds, and what can be exported with it."""

import threading

import pytest
import torch
from attention_inputs import CHOICES, inputs
from deformable_cases import differentiate
from deformable_cases import inputs as deformable_inputs
from helpers import FLOOR, assert_close
from superpixel_cases import features
from torch import nn

import tmt_ext

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
DATA = inputs(keys=70, dtype=torch.float32)
MAP = features((1, 8, 10, 12), torch.float32)


@pytest.fixture(autouse=True)
def _compiled_again():
    yield
    tmt_ext.set_plain_torch(False)


def calls_operators(function, *arguments):
    """Whether the function calls the compiled operators."""
    with torch.profiler.profile() as profile:
        function(*arguments)
    return any(event.name.startswith("tmt::") for event in profile.events())


def attend():
    return tmt_ext.masked_attention(*DATA.qkv, DATA.mask_logits)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("autocast", [False, True])
def test_superpixel_equals_the_kernel(dtype, autocast):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        kernel = tmt_ext.superpixel(MAP.to(dtype), 4)
        with tmt_ext.plain_torch():
            plain = tmt_ext.superpixel(MAP.to(dtype), 4)
    assert [x.dtype for x in plain] == [x.dtype for x in kernel] and torch.equal(plain.labels, kernel.labels)
    for one, other in zip(plain[:2], kernel[:2], strict=True):
        assert_close(one, other, 10 * FLOOR[one.dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("autocast", [False, True])
def test_attention_equals_the_kernel(dtype, autocast):
    qkv = [x.to(dtype) for x in DATA.qkv]
    packed = tmt_ext.pack_mask(DATA.mask_logits)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        kernel = tmt_ext.packed_attention(*qkv, packed.bits)
        with tmt_ext.plain_torch():
            results = tmt_ext.masked_attention(*qkv, DATA.mask_logits), tmt_ext.packed_attention(*qkv, packed.bits)
    assert torch.equal(*results) and results[0].dtype == kernel.dtype
    assert_close(results[0], kernel, FLOOR[kernel.dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("autocast", [False, True])
def test_deformable_attention_equals_the_kernel(dtype, autocast):
    data = deformable_inputs(dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        kernel = differentiate(tmt_ext.deformable_attention, data)
        with tmt_ext.plain_torch():
            plain = differentiate(tmt_ext.deformable_attention, data)
    for one, other in zip(plain, kernel, strict=True):
        assert one.dtype == other.dtype
        assert_close(one, other, FLOOR[one.dtype])


@pytest.mark.parametrize(("rule", "fallback"), CHOICES)
def test_masks_equal_the_kernel_s(rule, fallback):
    options = dict(transfer_threshold=0.3, rule=rule, fallback=fallback)
    kernel = tmt_ext.pack_mask(**DATA.mask, **options)
    with tmt_ext.plain_torch():
        plain = tmt_ext.pack_mask(**DATA.mask, **options)
    assert torch.equal(plain.bits, tmt_ext.reference.unpack_bits(kernel.bits, 70))
    assert torch.equal(plain.allowed, kernel.allowed)


def test_predicted_masks_equal_the_kernel_s_under_autocast():
    embeddings, mask_features = DATA.query[:, 0], DATA.key[:, 0].mT
    with torch.autocast("cpu", torch.bfloat16):
        kernel = tmt_ext.pack_predicted_mask(embeddings, mask_features, rule="foreground")
        with tmt_ext.plain_torch():
            plain = tmt_ext.pack_predicted_mask(embeddings, mask_features, rule="foreground")
    assert torch.equal(plain.bits, tmt_ext.reference.unpack_bits(kernel.bits, 70))


def test_values_are_checked():
    with tmt_ext.plain_torch(), pytest.raises(ValueError, match="pack_mask: rule must be one of"):
        tmt_ext.pack_mask(DATA.mask_logits, rule="no")
    with tmt_ext.plain_torch(), pytest.raises(ValueError, match="pack_predicted_mask: fallback must be one of"):
        tmt_ext.pack_predicted_mask(DATA.query[:, 0], DATA.key[:, 0].mT, fallback="no")


def test_holds_in_its_context_and_thread():
    def elsewhere():
        found.append(calls_operators(attend))

    found = []
    with tmt_ext.plain_torch():
        with tmt_ext.plain_torch():
            pass
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert not calls_operators(attend) and found == [True]
    assert calls_operators(attend)
    with pytest.raises(KeyError), tmt_ext.plain_torch():
        raise KeyError
    assert calls_operators(attend)
    tmt_ext.set_plain_torch(True)
    elsewhere()
    assert found == [True, False]


def test_compiled_code_follows_the_switch():
    compiled = torch.compile(lambda q: tmt_ext.packed_attention(q, *DATA.qkv[1:]), fullgraph=True, backend="eager")
    assert calls_operators(compiled, DATA.query)
    tmt_ext.set_plain_torch(True)
    assert not calls_operators(compiled, DATA.query)
    tmt_ext.set_plain_torch(False)
    assert calls_operators(compiled, DATA.query)


class Both(nn.Module):
    """Regions' features become keys; predicted masks, T and every rule and fallback decide. Queries sample too."""

    def forward(self, image, query):
        found = tmt_ext.superpixel(image, 4, iterations=2)
        keys = found.region_features.flatten(2)
        transferability = keys[:, 0].sigmoid()
        asking = query[:, 0, :, None, None]  # (B, N, 1, 1, D)
        locations, weights = asking[..., :6].sigmoid().unflatten(-1, (3, 2)), asking[..., 5:]
        sampled = tmt_ext.deformable_attention(image.flatten(2).mT[:, :, None], [image.shape[2:]], locations, weights)
        results = [found.labels, found.assignment, sampled]
        for rule, fallback in CHOICES:
            options = dict(transfer_threshold=0.6, rule=rule, fallback=fallback)
            if rule == "none":
                packed = tmt_ext.pack_mask(None, transferability, queries=query.shape[2], **options)
            else:
                packed = tmt_ext.pack_predicted_mask(query[:, 0], keys, transferability, **options)
            one_head = keys.mT[:, None]
            results += [packed.allowed, tmt_ext.packed_attention(query, one_head, one_head, packed.bits)]
        return tuple(results)


def equal(results, expected):
    """Integers equal, numbers close."""
    for one, other in zip(results, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    return True


@pytest.mark.parametrize("strict", [False, True])
def test_exported_program_has_no_operator_of_ours(strict):
    arguments = MAP, features((1, 1, 5, 8), torch.float32, seed=1)
    if strict:
        tmt_ext.set_plain_torch(True)
        program = torch.export.export(Both(), arguments, strict=True)
        tmt_ext.set_plain_torch(False)
    else:
        with tmt_ext.plain_torch():
            program = torch.export.export(Both(), arguments)
    assert not any("tmt" in str(node.target) for node in program.graph.nodes if node.op == "call_function")
    assert equal(program.module()(*arguments), Both()(*arguments))


def test_traced_deformable_attention_has_no_operator_of_ours():
    """torch.jit.trace records no list of sizes."""
    data, other = deformable_inputs(dtype=torch.float32), deformable_inputs(dtype=torch.float32, seed=1)

    def function(value, locations, weights):
        return tmt_ext.deformable_attention(value, data.shapes, locations, weights)

    traced = torch.jit.trace(function, (data.value, data.locations, data.weights))
    assert "tmt::" not in str(traced.graph)
    assert_close(traced(other.value, other.locations, other.weights), tmt_ext.deformable_attention(*other), 1e-6)


def test_onnx(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    arguments = MAP, features((1, 1, 5, 8), torch.float32, seed=1)
    with tmt_ext.plain_torch():
        torch.onnx.export(Both(), arguments, dynamo=True, verbose=False).save(tmp_path / "both.onnx")
    session = runtime.InferenceSession(tmp_path / "both.onnx")
    names = [given.name for given in session.get_inputs()]
    results = session.run(None, {name: x.numpy() for name, x in zip(names, arguments, strict=True)})
    assert equal([torch.from_numpy(x) for x in results], Both()(*arguments))
