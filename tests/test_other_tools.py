"""transformers' Trainer and peft with our model: run where accelerate and peft are installed, by `make tools`."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate")
from transformers import Trainer, TrainingArguments  # noqa: E402

from tests.model.conftest import SIZES, SWIN  # noqa: E402
from tmt.data import IGNORE  # noqa: E402
from tmt.model import TMTConfig, TMTForSemanticSegmentation, masks_from_labels  # noqa: E402

CLASSES = 5


class Scenes(torch.utils.data.Dataset):
    """Images of two halves; labels (H, W)."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        labels = torch.zeros(48, 64, dtype=torch.int64)
        labels[:, 32:] = 1 + index % 4
        labels[0] = IGNORE
        image = labels.clamp(max=4)[None].float().expand(3, -1, -1) + 0.1 * torch.randn(3, 48, 64)
        return {"image": image, "labels": labels}


def collate(samples: list[dict[str, torch.Tensor]]) -> dict[str, object]:
    """What the model's forward takes."""
    labels = torch.stack([one["labels"] for one in samples])
    masks, classes = masks_from_labels(labels, CLASSES)
    pixels = torch.stack([one["image"] for one in samples])
    return {"pixel_values": pixels, "mask_labels": masks, "class_labels": classes, "labelled": labels != IGNORE}


def small() -> TMTForSemanticSegmentation:
    torch.manual_seed(0)
    return TMTForSemanticSegmentation(TMTConfig(**{**SIZES, "backbone_config": dict(SWIN), "transferability": False}))


def arguments(folder: Path, **more: object) -> TrainingArguments:
    given = {"max_steps": 6, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "logging_steps": 1} | more
    return TrainingArguments(
        str(folder), report_to=[], use_cpu=True, remove_unused_columns=False, label_names=["mask_labels"], **given
    )


def losses_of(trainer: Trainer) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_trainer_trains_evaluates_predicts_and_saves(tmp_path: Path, checkpointing: bool) -> None:
    model = small()
    options = {"gradient_checkpointing": checkpointing, "max_steps": 12}
    trainer = Trainer(
        model, arguments(tmp_path, **options), train_dataset=Scenes(), eval_dataset=Scenes(), data_collator=collate
    )
    trainer.train()
    losses = losses_of(trainer)
    assert len(losses) == 12 and sum(losses[-3:]) < sum(losses[:3])
    assert trainer.evaluate()["eval_loss"] < losses[0]
    found = trainer.predict(Scenes())
    assert found.metrics and found.metrics["test_loss"] < losses[0]
    trainer.save_model(str(tmp_path / "saved"))
    again = TMTForSemanticSegmentation.from_pretrained(tmp_path / "saved")
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_adapters_of_peft_learn_alone(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(
        r=4, target_modules=r".*\.(fc1|fc2|value_proj|output_proj)", modules_to_save=["class_predictor"]
    )
    model = peft.get_peft_model(small(), settings)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = Trainer(model, arguments(tmp_path), train_dataset=Scenes(), data_collator=collate)
    trainer.train()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    assert changed and all("lora_" in name or "modules_to_save" in name for name in changed)
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(small(), tmp_path / "adapter").eval()
    pixels = torch.randn(1, 3, 48, 64)
    with torch.inference_mode():
        first, second = model.eval()(pixel_values=pixels), again(pixel_values=pixels)
    torch.testing.assert_close(first.masks_queries_logits, second.masks_queries_logits)
    merged = again.merge_and_unload()
    with torch.inference_mode():
        third = merged(pixel_values=pixels)
    torch.testing.assert_close(first.masks_queries_logits, third.masks_queries_logits, rtol=1e-4, atol=1e-4)
