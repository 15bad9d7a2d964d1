"""What bench.precision says of bfloat16 superpixels, where the answer is known."""

import numpy as np
import torch
from PIL import Image

from bench import precision
from tmt.model import TMTConfig, TMTForSemanticSegmentation, initialise_from_scratch

STAGES = ["stage1", "stage2", "stage3", "stage4"]
RESNET = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 16, 16, 16],
    "depths": [1, 1, 1, 1],
    "out_features": STAGES,
}


def tiny_model():
    torch.manual_seed(0)
    sizes = dict(feature_size=32, mask_feature_size=32, hidden_dim=32, num_labels=3, num_queries=4)
    heads = dict(num_attention_heads=4, encoder_layers=1, decoder_layers=2, estimator_hidden=16)
    model = TMTForSemanticSegmentation(TMTConfig(backbone_config=RESNET, **sizes, **heads))
    initialise_from_scratch(model)
    return model.eval()


def judged(labels, margin, transferability):
    return precision.Judged(
        *(torch.tensor(v, dtype=torch.float32).view(8, 8) for v in (labels, margin, transferability))
    )


def test_figures_by_hand():
    rising = [i / 64 for i in range(64)]
    plain = judged([0.0] * 64, [0.5] * 63 + [0.25], rising)
    other = judged([0.0] * 63 + [1.0], [0.5] * 64, [1.0, *rising[1:]])
    config = TMTConfig(backbone_config=RESNET, transfer_fraction=0.5)
    figures = precision.summary([precision.compare(plain, other, (64, 64), config)])
    assert figures["positions"] == 64 and figures["labels changed"] == 1 / 64
    assert figures["margin where changed, largest"] == 0.25
    assert figures["T's change, largest"] == 1.0 and figures["T's change, mean"] == 1 / 64
    assert figures["keys decided otherwise, stride 8"] == 2 / 64  # the first fails, so that another one passes


def test_nothing_changes_without_a_change():
    plain = judged([0.0] * 64, [0.5] * 64, [0.5] * 64)
    figures = precision.summary([precision.compare(plain, plain, (64, 64), TMTConfig(backbone_config=RESNET))])
    assert [name for name, value in figures.items() if value] == ["positions"]


def test_runs_on_a_saved_model(tmp_path, capsys):
    tiny_model().save_pretrained(tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    precision.main([str(tmp_path / "model"), str(tmp_path / "a.png"), "--out", str(tmp_path / "figures.json")])
    printed = capsys.readouterr().out
    assert "| positions | 96 | 96 |" in printed and (tmp_path / "figures.json").exists()
