"""The decoder's short cuts change no result: dropped keys, masks without logits, resizing channel by channel."""

import pytest
import torch
from torch.nn import functional as F

import tmt_ext
from tmt.model import decoder, masks_from_labels
from tmt.model.tma import AttentionMaskBuilder
from tmt.settings import AttentionSettings


@pytest.fixture
def given():
    """T (2, 13, 17) of the finest level; ties at the threshold make the second image keep more positions."""
    transferability = torch.rand(2, 13, 17, generator=torch.Generator().manual_seed(3))
    transferability[1, :, :9] *= 0.5
    transferability[1, :, 9:13] = 0.7
    transferability[1, :, 13:] = 0.9
    return transferability


@pytest.fixture
def attended(monkeypatch):
    """Numbers of keys that the attention was called with, in order."""
    seen, original = [], tmt_ext.packed_attention

    def spy(query, key, value, bits=None):
        seen.append(key.shape[2])
        return original(query, key, value, bits)

    monkeypatch.setattr(tmt_ext, "packed_attention", spy)
    return seen


def _outputs_and_gradients(model, images, labels, given):
    torch.manual_seed(0)
    output = model(images, *masks_from_labels(labels, 5), transferability=given, output_hidden_states=True)
    output.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return output, gradients


@pytest.mark.parametrize(
    "fields",
    [
        {"mask_rule": "uncertain"},
        {"mask_rule": "uncertain", "mask_threshold": 0.99},
        {"mask_rule": "foreground", "mask_threshold": 0.01},
        {"mask_rule": "none"},
    ],
    ids=lambda fields: " ".join(map(str, fields.values())),
)
def test_dropping_keys_changes_neither_outputs_nor_gradients(
    build, images, labels, given, attended, monkeypatch, fields
):
    model = build(**fields)
    short, short_gradients = _outputs_and_gradients(model, images, labels, given)
    kept = attended.copy()
    monkeypatch.setattr(decoder, "_counts_freely", lambda tensor: False)
    full, full_gradients = _outputs_and_gradients(model, images, labels, given)
    assert attended[len(kept) :] == [4 * 5, 7 * 9, 13 * 17, 4 * 5]
    dropped = [some < every for some, every in zip(kept, attended[len(kept) :], strict=True)]
    expected = [not rates.any() for rates in short.fallback_rate.unbind(1)]
    assert dropped == expected and any(expected) == (fields != {"mask_rule": "uncertain"})
    for name in ("class_queries_logits", "masks_queries_logits", "allowed_fraction", "fallback_rate"):
        torch.testing.assert_close(getattr(short, name), getattr(full, name), rtol=1e-5, atol=1e-5)
    for name, gradient in full_gradients.items():
        limit = 1e-4 * gradient.abs().max().item() + 1e-7
        torch.testing.assert_close(short_gradients[name], gradient, rtol=0, atol=limit, msg=name)


def test_positions_that_only_fill_up_are_not_attended():
    """The first image keeps 2 of 6 positions, the second 4."""
    values = torch.tensor([[0.1, 0.9, 0.8, 0.2, 0.7, 0.6], [0.1, 0.2, 0.9, 0.3, 0.4, 0.8]])
    transfer = decoder.LevelTransferability(values, torch.tensor([0.5, 0.5]))
    maps = torch.arange(12.0).view(2, 1, 6)
    level = decoder.Level(maps.transpose(1, 2), maps.transpose(1, 2) + 100, maps, transfer)
    short = decoder.without_excluded(level)
    assert short.keys[..., 0].tolist() == [[0, 3, 1, 2], [6, 7, 9, 10]]
    assert torch.equal(short.values, short.keys + 100) and torch.equal(short.mask_features, short.keys.transpose(1, 2))
    passes = short.transfer.values <= short.transfer.threshold[:, None]
    assert passes.tolist() == [[True, True, False, False], [True] * 4]


def test_a_query_that_falls_back_sees_every_key(build, images, given, attended):
    model = build(mask_rule="foreground")
    embedder = model.model.transformer_module.decoder.mask_predictor.mask_embedder
    torch.nn.init.zeros_(embedder.get_submodule("2.0").weight)
    torch.nn.init.zeros_(embedder.get_submodule("2.0").bias)
    with torch.no_grad():
        assert model(images, transferability=given).fallback_rate.eq(0).all()  # a logit of 0 is in the foreground
        inside = attended.copy()
        attended.clear()
        model.model.transformer_module.decoder.mask_builder = AttentionMaskBuilder(
            AttentionSettings(mask_rule="foreground", mask_threshold=0.6)
        )
        assert model(images, transferability=given).fallback_rate.eq(1).all()
    full = [4 * 5, 7 * 9, 13 * 17, 4 * 5]
    assert attended == full and all(some < every for some, every in zip(inside, full, strict=True))


def test_no_logits_of_every_query_and_key_are_stored(build, images, given, monkeypatch):
    """Masks of the layers come from `pack_predicted_mask` alone."""
    model = build()
    monkeypatch.setattr(tmt_ext, "pack_mask", None)
    monkeypatch.setattr(decoder, "mask_logits", None)
    with torch.no_grad():
        assert model(images, transferability=given).fallback_rate.isfinite().all()


@pytest.mark.parametrize("size", [(25, 33), (12, 16), (7, 9), (60, 70), (1, 1)])
def test_resizing_is_torchs(size):
    maps = torch.randn(2, 5, 25, 33)
    expected = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(decoder.resize(maps, size), expected, rtol=1e-6, atol=1e-6)


def test_the_decoder_compiles_as_one_graph(build, images, given):
    """Where T is known and where not: the number of keys that pass it shapes no tensor then."""
    module = build().model.transformer_module
    maps = tuple(torch.randn(2, 64, *size) for size in ((4, 5), (7, 9), (13, 17)))
    mask_features = torch.randn(2, 48, 25, 33)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for transferability in (given, None):
            found, expected = (call(maps, mask_features, transferability) for call in (compiled, module))
            torch.testing.assert_close(found.queries, expected.queries, rtol=1e-4, atol=1e-4)
