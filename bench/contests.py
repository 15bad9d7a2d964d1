"""The rows of the tables: who is measured against whom, on what, and to what end. The first contestant is ours."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import tmt_ext
from tmt.settings import ModelConfig

from . import decoders, goals, inputs, models, peers
from .goals import Goal
from .timing import Calls

KAPPA, ITERATIONS = 1 / 0.07, 6
TRANSFER_QUANTILE = 0.7  # p_T = 0.3
CPU_SUPERPIXELS = ((2, 128, 128, 128, 8), (1, 256, 128, 256, 8), (4, 256, 64, 128, 4))  # B, C, H, W, cell
CPU_KEYS = (2048, 8192, 32768)
CROPS = ((1, (512, 1024)), (2, (128, 256)))  # B, height and width of what a pixel decoder's levels belong to
FORWARD, BOTH = "forward", "forward + backward"

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Contest:
    """One row: calls that compute the same. Rows of a group differ in size and rule only."""

    group: str
    title: str
    step: str
    calls: Calls
    goals: tuple[Goal, ...] = ()

    @property
    def row(self) -> str:
        return f"{self.title}, {self.step}"


def on_cpu(only: str) -> Iterator[Contest]:
    """Every contest of the CPU whose title contains `only`, made when its turn comes."""
    torch.manual_seed(0)
    torch._dynamo.config.cache_size_limit = 64  # a version for each shape and pass
    for make in _cpu_makers():
        yield from (contest for contest in make() if only in contest.title)


def _cpu_makers() -> Iterator[Callable[[], Iterator[Contest]]]:
    """One maker for each set of inputs, so that only one set is alive at a time."""
    for size in CPU_SUPERPIXELS:
        yield lambda size=size: superpixels(size)
    for keys in CPU_KEYS:
        for shaped in (False, True):
            for rule in ("uncertain", "foreground"):
                yield lambda keys=keys, shaped=shaped, rule=rule: cpu_attention(keys, shaped, rule)
    for keys in CPU_KEYS:
        yield lambda keys=keys: masks(keys)
    yield from (lambda crop=crop: deformable(*crop) for crop in CROPS)
    yield from (lambda size=size: superpixels_in_half(size) for size in CPU_SUPERPIXELS)
    yield from (lambda keys=keys: attention_in_half(keys) for keys in CPU_KEYS)
    yield from (lambda same=same: end_to_end(same) for same in (True, False))
    yield lambda: whole_model(
        "Swin-T, 512x1024", models.SWIN, 1, (512, 1024), goals.MODEL_INFERENCE, goals.MODEL_TRAINING
    )
    yield lambda: whole_model("ResNet-50, 512x1024", models.RESNET50, 1, (512, 1024))
    yield lambda: whole_model("demo preset, 8 of 96x192", models.preset("demo"), 8, (96, 192))
    yield lambda: whole_model("small-real preset, 8 of 192x256", models.preset("small-real"), 8, (192, 256))


# ---- superpixels -----------------------------------------------------------------------------------------------------


def own_superpixels(cell: int) -> Function:
    """features (B, C, H, W) -> region features (B, C, h, w)."""
    return lambda x: tmt_ext.superpixel(x, cell, iterations=ITERATIONS, kappa=KAPPA).region_features


def superpixel_functions(cell: int) -> dict[str, Function]:
    return {
        "tmt": own_superpixels(cell),
        "unfold": lambda x: peers.superpixel_unfold(x, cell, ITERATIONS, KAPPA),
        "compiled unfold": lambda x: peers.compiled_unfold()(x, cell, ITERATIONS, KAPPA),
        "gather/scatter": lambda x: peers.superpixel_scatter(x, cell, ITERATIONS, KAPPA),
        "windows": lambda x: peers.superpixel_windows(x, cell, ITERATIONS, KAPPA),
        "compiled windows": lambda x: peers.compiled_windows()(x, cell, ITERATIONS, KAPPA),
    }


def superpixels(size: tuple[int, ...]) -> Iterator[Contest]:
    """Both passes at one size (B, C, H, W, cell).

    gather/scatter, far behind everyone, takes part at the smallest size only, to save minutes, and by itself: the
    gigabytes that it allocates disturb whoever runs next.
    """
    *shape, cell = size
    title, functions, given = superpixel_title(size), superpixel_functions(cell), (torch.randn(shape),)
    scatter = {name: functions[name] for name in ("tmt", "gather/scatter")}
    del functions["gather/scatter"]
    aims = {FORWARD: goals.SUPERPIXEL_FORWARD, BOTH: goals.SUPERPIXEL_BOTH}
    yield from both_passes("superpixel", title, functions, given, aims)
    if size == CPU_SUPERPIXELS[0]:
        yield from both_passes("superpixel", f"{title}, against gather/scatter", scatter, given, aims)


def superpixels_in_half(size: tuple[int, ...]) -> Iterator[Contest]:
    """bfloat16 against float32."""
    *shape, cell = size
    group, function = "superpixel bfloat16", own_superpixels(cell)
    yield from half_against_full(group, superpixel_title(size), function, (torch.randn(shape),))


def superpixel_title(size: tuple[int, ...]) -> str:
    return f"superpixel {tuple(size[:4])} cell {size[4]}"


# ---- attention -------------------------------------------------------------------------------------------------------


def attention_functions(mask: Tensor, transferability: Tensor, rule: str) -> dict[str, Function]:
    """query, key, value -> output under mask (B, N, S) and transferability (B, S)."""
    threshold = torch.quantile(transferability, TRANSFER_QUANTILE, dim=1)
    given, options = (mask, transferability, threshold, rule), {"transfer_threshold": threshold, "rule": rule}
    return {
        "tmt": lambda q, k, v: tmt_ext.masked_attention(q, k, v, mask, transferability, **options),
        "sdpa": lambda q, k, v: peers.attention_sdpa(q, k, v, *given),
        "sdpa, gathered": lambda q, k, v: peers.attention_gathered(q, k, v, *given),
        "flex": lambda q, k, v: peers.attention_flex(q, k, v, *given),
        "mask2former": lambda q, k, v: peers.attention_mask2former(q, k, v, *given),
    }


def cpu_attention(keys: int, shaped: bool, rule: str) -> Iterator[Contest]:
    """Both passes, B 2; FlexAttention has no backward on the CPU."""
    *qkv, mask, transferability = inputs.attention(2, keys, shaped)
    functions = attention_functions(mask, transferability, rule)
    forward = goals.ATTENTION_FORWARD_BLOBS if shaped else goals.ATTENTION_FORWARD
    shape = "blobs" if shaped else "unstructured"
    group, title = f"attention, {shape}", f"attention S {keys} {shape}, {rule}"
    yield Contest(group, title, FORWARD, without_gradients(functions, qkv), forward)
    del functions["flex"]
    yield Contest(group, title, BOTH, with_backward(functions, qkv), goals.ATTENTION_BOTH)


def attention_in_half(keys: int) -> Iterator[Contest]:
    """bfloat16 against float32."""
    *qkv, mask, transferability = inputs.attention(2, keys, True)
    own = attention_functions(mask, transferability, "uncertain")["tmt"]
    yield from half_against_full("attention bfloat16", f"attention S {keys} blobs, uncertain", own, qkv)


def masks(keys: int) -> Iterator[Contest]:
    """Deciding where to attend, from mask embeddings (B, N, E) and features (B, E, S) or from their product."""
    embeddings, features = torch.randn(2, inputs.QUERIES, 256), torch.randn(2, 256, keys) / 16
    logits, transferability = embeddings @ features, torch.rand(2, keys)
    threshold = torch.quantile(transferability, TRANSFER_QUANTILE, dim=1)
    options = {"transferability": transferability, "transfer_threshold": threshold, "rule": "uncertain"}
    test = (transferability, threshold, "uncertain")
    predicted = {
        "tmt": lambda: tmt_ext.pack_predicted_mask(embeddings, features, **options),
        "matmul, then pack_mask": lambda: tmt_ext.pack_mask(embeddings @ features, **options),
        "matmul, then booleans": lambda: peers.allowed_before_fallback(embeddings @ features, *test),
    }
    given = {
        "tmt": lambda: tmt_ext.pack_mask(logits, **options),
        "booleans": lambda: peers.allowed_before_fallback(logits, *test),
    }
    yield Contest("mask bits", f"mask bits S {keys} from embeddings", FORWARD, predicted)
    yield Contest("mask bits", f"mask bits S {keys} from logits", FORWARD, given)


# ---- deformable attention --------------------------------------------------------------------------------------------


def deformable_case(batch: int, crop: tuple[int, int]) -> tuple[dict[str, Function], tuple[Tensor, Tensor, Tensor]]:
    """The contestants, and value, locations and weights over a crop's three levels; every position is a query."""
    value, shapes, locations = inputs.deformable(batch, crop)
    weights = torch.randn(locations.shape[:-1]).flatten(3).softmax(-1).view(locations.shape[:-1])
    functions = {
        "tmt": lambda v, x, w: tmt_ext.deformable_attention(v, shapes, x, w),
        "transformers": lambda v, x, w: peers.deformable_transformers(v, shapes, x, w),
        "compiled transformers": lambda v, x, w: peers.compiled_deformable()(v, shapes, x, w),
    }
    return functions, (value, locations, weights)


def deformable(batch: int, crop: tuple[int, int]) -> Iterator[Contest]:
    """Both passes."""
    functions, given = deformable_case(batch, crop)
    aims = {FORWARD: goals.DEFORMABLE_PASS, BOTH: goals.DEFORMABLE_PASS}
    yield from both_passes("deformable attention", deformable_title(batch, crop), functions, given, aims)


def deformable_title(batch: int, crop: tuple[int, int]) -> str:
    return f"deformable attention B {batch}, levels of {crop[0]}x{crop[1]}"


# ---- end to end ------------------------------------------------------------------------------------------------------


def end_to_end(same: bool) -> Iterator[Contest]:
    """Decoders of a 512 x 1024 crop: the `same` function as transformers', or TMT as the paper has it."""
    features = decoders.Features.draw(1)
    ours, theirs = decoders.contestants(transferability=not same)
    group = title = "decoder 512x1024, " + ("foreground without T, as transformers" if same else "uncertain with T")
    forward = {name: _inference(model, features) for name, model in (("tmt", ours), ("transformers", theirs))}
    yield Contest(group, title, "inference", forward, goals.DECODER_INFERENCE)
    steps = {"tmt": decoders.training_step(ours), "transformers": decoders.training_step(theirs)}
    calls = {name: lambda step=step: step(features) for name, step in steps.items()}
    yield Contest(group, title, "training step", calls, goals.DECODER_TRAINING)


def whole_model(
    name: str, sizes: ModelConfig, batch: int, size: tuple[int, int], *aims: tuple[Goal, ...]
) -> Iterator[Contest]:
    """From images to logits and to a step of the optimiser, the same as transformers'; aims: of both, or none."""
    of_inference, of_training = aims or ((), ())
    given = models.Batch.draw(batch, size)
    pair = dict(zip(("tmt", "transformers"), models.contestants(sizes), strict=True))
    group = title = f"model {name}"
    runs = {who: models.inference(model, given.pixels) for who, model in pair.items()}
    yield Contest(group, title, "inference", runs, of_inference)
    steps = {who: models.training_step(model, given) for who, model in pair.items()}
    yield Contest(group, title, "training step", steps, of_training)


def _inference(model: torch.nn.Module, features: decoders.Features) -> Callable[[], object]:
    def run() -> object:
        with torch.inference_mode():
            return model(features)

    return run


# ---- passes ----------------------------------------------------------------------------------------------------------


def both_passes(group: str, title: str, functions: dict[str, Function], given, aims: dict[str, tuple[Goal, ...]]):
    """A contest for each pass on the same inputs."""
    yield Contest(group, title, FORWARD, without_gradients(functions, given), aims[FORWARD])
    yield Contest(group, title, BOTH, with_backward(functions, given), aims[BOTH])


def half_against_full(group: str, title: str, function: Function, given) -> Iterator[Contest]:
    """Ours in bfloat16 against ours in float32, both passes."""
    for step, bind in ((FORWARD, _without_gradients), (BOTH, _with_backward)):
        half = [tensor.bfloat16() for tensor in given]
        calls = {"tmt": bind(function, half), "tmt float32": bind(function, given)}
        yield Contest(group, f"{title} bfloat16", step, calls, goals.BFLOAT16)


def without_gradients(functions: dict[str, Function], given) -> Calls:
    return {name: _without_gradients(function, given) for name, function in functions.items()}


def with_backward(functions: dict[str, Function], given) -> Calls:
    return {name: _with_backward(function, given) for name, function in functions.items()}


def _without_gradients(function: Function, given) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return function(*given)

    return run


def _with_backward(function: Function, given) -> Callable[[], object]:
    """A call on leaves that need gradients, then backward from a gradient of the result that the first call draws."""
    leaves, upstream = [tensor.detach().clone().requires_grad_() for tensor in given], []

    def run() -> object:
        output = function(*leaves)
        if not upstream:
            upstream.append(torch.randn_like(output))
        return torch.autograd.grad(output, leaves, upstream[0])

    return run
