"""A model small enough to build in a test, with every part of the real one."""

import pytest
import torch

from bench import models
from tmt.model import TMTConfig, TMTForSemanticSegmentation, initialise_from_scratch

CLASSES = 5
STAGES = ["stage1", "stage2", "stage3", "stage4"]
SWIN = {
    "model_type": "swin",
    "embed_dim": 24,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 4, 8],
    "window_size": 4,
    "drop_path_rate": 0.0,
    "out_features": STAGES,
}
RESNET = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [32, 48, 64, 96],
    "depths": [1, 1, 1, 1],
    "out_features": STAGES,
}
SIZES = {
    "feature_size": 64,
    "mask_feature_size": 48,
    "hidden_dim": 64,
    "encoder_feedforward_dim": 64,
    "dim_feedforward": 64,
    "encoder_layers": 2,
    "decoder_layers": 5,
    "num_attention_heads": 4,
    "num_queries": 12,
    "train_num_points": 256,
    "num_labels": CLASSES,
}


@pytest.fixture(autouse=True)
def _deterministic(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(0)


@pytest.fixture
def build():
    """build(backbone="swin", **fields of TMTConfig) -> a model from random weights, in evaluation mode."""

    def make(backbone="swin", **fields):
        chosen = dict(SWIN if backbone == "swin" else RESNET)
        config = TMTConfig(**{**SIZES, "backbone_config": chosen, "estimator_hidden": 32, **fields})
        model = TMTForSemanticSegmentation(config)
        initialise_from_scratch(model)
        return model.eval()

    return make


@pytest.fixture
def plain_twin():
    """plain_twin(model) -> transformers' Mask2Former with the same weights, in evaluation mode."""

    return lambda model: models.plain_twin(model).eval()


@pytest.fixture
def images():
    """(2, 3, 97, 131): no side divides by any stride."""
    return torch.randn(2, 3, 97, 131, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels():
    """(2, 97, 131) train ids in blocks, with ignored pixels; the second image has fewer classes."""
    blocks = torch.randint(0, CLASSES, (2, 7, 9), generator=torch.Generator().manual_seed(2))
    blocks[1] = blocks[1] % 3
    blocks[:, 0, 0] = 255
    return blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :97, :131].contiguous()
