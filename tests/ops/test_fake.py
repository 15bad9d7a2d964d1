"""The operators without data, on the meta device and as fake tensors: shapes, dtypes and strides of real results."""

import deformable_cases
import pytest
import torch
from attention_inputs import inputs
from superpixel_cases import features
from torch._subclasses.fake_tensor import FakeTensorMode

import tmt_ext

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def every_operator(query, key, value, mask_logits, transferability, image, maps, locations, weights):
    """Results and gradients of all operators, with T and thresholds as numbers and as tensors."""
    leaves = [x.detach().requires_grad_() for x in (query, key, value, image, maps, locations, weights)]
    found = tmt_ext.superpixel(leaves[3], 4, iterations=2)
    packed = tmt_ext.pack_mask(mask_logits, transferability, transfer_threshold=0.5)
    threshold = transferability.float().mean(1)
    predicted = tmt_ext.pack_predicted_mask(query[:, 0], key[:, 0].mT, transferability, transfer_threshold=threshold)
    by_transfer = tmt_ext.pack_mask(None, transferability, transfer_threshold=0.5, queries=query.shape[2])
    attended = tmt_ext.packed_attention(*leaves[:3], packed.bits)
    sampled = tmt_ext.deformable_attention(leaves[4], [(5, 7), (3, 2)], *leaves[5:])
    loss = attended.float().sum() + found.region_features.float().sum() + sampled.float().sum()
    return [*found, *packed, *predicted, *by_transfer, attended, sampled, *torch.autograd.grad(loss, leaves)]


def described(tensors):
    return [(x.shape, x.dtype, x.stride()) for x in tensors]


def arguments(dtype):
    maps, _, *places = deformable_cases.inputs(heads=3)
    given = *inputs(keys=70), features((2, 6, 9, 11)), maps.mT.contiguous().mT, *places
    return [x.to(dtype) for x in given]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_fake_tensors(dtype, autocast):
    given = arguments(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        real = every_operator(*given)
        with FakeTensorMode() as mode:
            fake = every_operator(*map(mode.from_tensor, given))
    assert described(fake) == described(real)


@pytest.mark.parametrize("dtype", DTYPES)
def test_meta_device(dtype):
    given = arguments(dtype)
    found = every_operator(*(x.to("meta") for x in given))
    assert all(x.is_meta for x in found) and described(found) == described(every_operator(*given))


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_torch_on_the_meta_device(dtype):
    qkv, image = [x.to(dtype).to("meta") for x in inputs(keys=70).qkv], torch.empty(2, 6, 9, 11, device="meta")
    with tmt_ext.plain_torch():
        assert tmt_ext.packed_attention(*qkv).shape == qkv[0].shape
        assert tmt_ext.superpixel(image.to(dtype), 4).labels.shape == (2, 9, 11)
        sampled = deformable_cases.inputs(dtype=dtype)
        moved = sampled._replace(**{x: getattr(sampled, x).to("meta") for x in ("value", "locations", "weights")})
        assert tmt_ext.deformable_attention(*moved).shape == (2, 9, 16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes_that_are_not_known(dtype):
    qkv, image = [x.to(dtype) for x in inputs(keys=70).qkv], features((2, 6, 9, 11), dtype)
    sizes = torch.export.Dim.DYNAMIC
    program = torch.export.export(Operators(), (*qkv, image), dynamic_shapes=({}, {2: sizes}, {2: sizes}, {3: sizes}))
    other = [qkv[0], *(x.to(dtype) for x in inputs(keys=90).qkv[1:]), features((2, 6, 9, 23), dtype)]
    assert all(torch.equal(a, b) for a, b in zip(program.module()(*other), Operators()(*other), strict=True))


class Operators(torch.nn.Module):
    def forward(self, query, key, value, image):
        packed = tmt_ext.pack_predicted_mask(query[:, 0], key[:, 0].mT)
        attended = tmt_ext.packed_attention(query, key, value, packed.bits)
        asking = query[:, 0, :, None, None]  # (B, N, 1, 1, D)
        locations, weights = asking[..., :8].sigmoid().unflatten(-1, (4, 2)), asking[..., 8:12]
        sampled = tmt_ext.deformable_attention(image.flatten(2).mT[:, :, None], [image.shape[2:]], locations, weights)
        return attended, tmt_ext.superpixel(image, 4).labels, sampled
