"""Which derivatives the operators have, and that they refuse the others by name instead of giving wrong values."""

import pytest
import torch
from torch.autograd import forward_ad, functional
from torch.utils.checkpoint import checkpoint

import tmt_ext


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


KEY, VALUE, MASK = numbers(2, 2, 70, 4, seed=1), numbers(2, 2, 70, 4, seed=2), numbers(2, 3, 70, seed=3)
MAPS = numbers(2, 26, 2, 4, seed=4)


def attend(query):
    return tmt_ext.masked_attention(query, KEY.to(query), VALUE.to(query), MASK).sin().sum()


def group(features):
    found = tmt_ext.superpixel(features, 3, iterations=2)
    return found.region_features.sin().sum() + found.assignment.square().sum()


def sample(x):
    """Values, locations and weights all depend on x (B, Q, heads, levels, points, 3)."""
    value = MAPS.to(x) * x.mean()
    return tmt_ext.deformable_attention(value, [(4, 5), (2, 3)], x[..., :2].sigmoid(), x[..., 2]).sin().sum()


OPERATORS = {
    "packed_attention": (attend, numbers(2, 2, 3, 4)),
    "superpixel": (group, numbers(2, 3, 6, 7)),
    "deformable_attention": (sample, numbers(2, 3, 2, 2, 2, 3)),
}
each = pytest.mark.parametrize("name", OPERATORS)


def gradient(function, x, **options):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf, **options)[0]


def dual_tangent(function, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x, x))).tangent


def second(function, x):
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(function(leaf), leaf, create_graph=True)
    return torch.autograd.grad(first.square().sum(), leaf)


def checkpointed(function):
    return lambda x: checkpoint(function, x, use_reentrant=False)


FORWARD = {
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,)),
    "jacfwd": lambda f, x: torch.func.jacfwd(f)(x),
    "hessian": lambda f, x: torch.func.hessian(f)(x),
    "dual": dual_tangent,
    "gradcheck": lambda f, x: torch.autograd.gradcheck(f, x.clone().requires_grad_(), check_forward_ad=True),
    "jacobian": lambda f, x: functional.jacobian(f, x, vectorize=True, strategy="forward-mode"),
    "compiled": lambda f, x: torch.func.jvp(torch.compile(f, backend="eager"), (x,), (x,)),
    "compiled around": lambda f, x: torch.compile(lambda y: dual_tangent(f, y), backend="eager")(x),
}
SECOND = {
    "twice": second,
    "checkpointed": lambda f, x: second(checkpointed(f), x),
    "compiled": lambda f, x: second(torch.compile(f, backend="eager"), x),
    "jacrev": lambda f, x: torch.func.jacrev(torch.func.jacrev(f))(x),
    "grad": lambda f, x: torch.func.grad(lambda y: torch.func.grad(f)(y).sum())(x),
    "gradgradcheck": lambda f, x: torch.autograd.gradgradcheck(f, x.clone().requires_grad_()),
    "functional.hessian": functional.hessian,
    "functional.jvp": lambda f, x: functional.jvp(f, x, x),
}
REVERSE = {
    "grad": lambda f, x: torch.func.grad(f)(x),
    "vjp": lambda f, x: torch.func.vjp(f, x)[1](torch.ones((), dtype=x.dtype))[0],
    "jacrev": lambda f, x: torch.func.jacrev(lambda y: torch.stack([f(2 * y), f(y)]))(x)[1],
    "vmap of grad": lambda f, x: torch.vmap(torch.func.grad(f))(torch.stack([x.flip(-1), x]))[1],
    "grad of vmap": lambda f, x: torch.func.grad(lambda y: torch.vmap(f)(y).sum())(torch.stack([x.flip(-1), x]))[1],
    "functional": functional.jacobian,
    "create_graph": lambda f, x: gradient(f, x, create_graph=True).detach(),
    "within a dual level": lambda f, x: in_dual_level(gradient, f, x),
}


def in_dual_level(function, *arguments):
    with forward_ad.dual_level():
        return function(*arguments)


@each
@pytest.mark.parametrize("way", FORWARD)
def test_forward_mode_is_refused(name, way):
    with pytest.raises(RuntimeError, match=f"^{name}: forward-mode derivatives are not implemented; .*plain_torch"):
        FORWARD[way](*OPERATORS[name])


@each
@pytest.mark.parametrize("way", SECOND)
def test_second_derivatives_are_refused(name, way):
    with pytest.raises(RuntimeError, match=f"^{name}: second derivatives are not implemented; .*plain_torch"):
        SECOND[way](*OPERATORS[name])


@each
@pytest.mark.parametrize("way", REVERSE)
def test_reverse_mode_of_torch_func(name, way):
    function, x = OPERATORS[name]
    torch.testing.assert_close(REVERSE[way](function, x), gradient(function, x))


@each
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoint(name, use_reentrant):
    function, x = OPERATORS[name]
    leaf = x.clone().requires_grad_()
    checkpoint(function, leaf, use_reentrant=use_reentrant).backward()
    torch.testing.assert_close(leaf.grad, gradient(function, x))


@each
def test_vmap(name):
    function, x = OPERATORS[name]
    many = torch.stack([x, 2 * x], dim=1)
    expected = torch.stack([function(x), function(2 * x)])
    torch.testing.assert_close(torch.vmap(function, in_dims=1)(many), expected)
    with torch.no_grad():
        torch.testing.assert_close(torch.vmap(function, in_dims=1)(many), expected)


def test_vmap_of_masks():
    masks, transferability = torch.stack([MASK, -MASK]), numbers(2, 70).sigmoid()
    packed = torch.vmap(lambda m: tmt_ext.pack_mask(m, transferability, transfer_threshold=0.5))(masks)
    predicted = torch.vmap(lambda m: tmt_ext.pack_predicted_mask(m, VALUE[:, 0].mT))(KEY[:, :, :3].transpose(0, 1))
    for i in range(2):
        alone = tmt_ext.pack_mask(masks[i], transferability, transfer_threshold=0.5)
        assert torch.equal(packed.bits[i], alone.bits) and torch.equal(packed.allowed[i], alone.allowed)
        alone = tmt_ext.pack_predicted_mask(KEY[:, i, :3], VALUE[:, 0].mT)
        assert torch.equal(predicted.bits[i], alone.bits)


@each
def test_torch_func_under_autocast(name):
    function, x = OPERATORS[name]
    with torch.autocast("cpu", torch.bfloat16):
        given = torch.func.grad(function)(x.float())
        assert given.dtype == torch.float32 and torch.equal(given, gradient(function, x.float()))


@each
def test_plain_torch_has_every_derivative(name):
    function, x = OPERATORS[name]
    first = gradient(function, x)
    with tmt_ext.plain_torch():
        torch.testing.assert_close(torch.func.jvp(function, (x,), (x,))[1], (first * x).sum())
        assert torch.autograd.gradgradcheck(function, x.clone().requires_grad_(), fast_mode=True)
