"""The whole model under `torch.compile` and `torch.export` with the compiled operators: one graph, the same results."""

import pytest
import torch

from tests.helpers.logits import Logits

SMALL = {"decoder_layers": 3, "encoder_layers": 1, "superpixel_iterations": 2}
OPERATORS = {"superpixel", "pack_predicted_mask", "packed_attention", "deformable_attention"}


def images(seed):
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(seed))


def assert_same(run, model):
    """At another image than was traced with."""
    for found, expected in zip(run(images(1)), model(images(1)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone, transferability", [("resnet", True), ("swin", False)])
@torch.no_grad()
def test_compiled_without_graph_breaks(build, backbone, transferability):
    model = Logits(build(backbone, transferability=transferability, **SMALL))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    compiled(images(0))
    assert_same(compiled, model)


@torch.no_grad()
def test_exported_with_the_operators(build):
    model = Logits(build("resnet", **SMALL))
    program = torch.export.export(model, (images(0),))
    graphs = [part for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    called = {str(node.target) for part in graphs for node in part.graph.nodes if node.op == "call_function"}
    assert {name.split(".")[1] for name in called if name.startswith("tmt.")} == OPERATORS
    assert_same(program.module(), model)
