"""The card beside a saved model, and what is uploaded to a hub; no hub is asked."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

from tmt.model import TMTForSemanticSegmentation, hub
from tmt.model.card import model_card

TRAINED = {
    "method": "TMT (20 of 200 images)", "data": "target night", "images": 20, "steps": 300, "batch_size": 4, "seed": 1,
    "revision": "0123abc", "score": {"miou": 61.234, "images": 50, "iou": {"road": 90.5, "sky": None}},
}  # fmt: skip


def test_card_says_data_method_rule_scores_and_limits(build):
    config = build(mask_rule="uncertain", transfer_fraction=0.3).config
    config.trained = TRAINED
    card = ModelCard(model_card(config))
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "image-segmentation"
    assert "domain-adaptation" in card.data.tags
    for said in (
        "TMT (20 of 200 images)", "target night", "0123abc", "where its own mask is unsure", "excludes 0.3",
        "On 50 validation images", "61.23", "90.50", "no such pixel", "## Limits", "no others",
    ):  # fmt: skip
        assert said in card.text, said


def test_a_model_of_unknown_training_says_so(build):
    text = model_card(build(transferability=False).config)
    assert "Nothing is known of it." in text and "Not measured." in text and "not used" in text


def test_card_travels_with_the_model_and_spares_what_others_wrote(build, tmp_path: Path):
    model = build()
    model.config.trained = TRAINED
    model.save_pretrained(tmp_path / "first")
    again = TMTForSemanticSegmentation.from_pretrained(tmp_path / "first")
    assert again.config.trained == TRAINED
    again.save_pretrained(tmp_path / "second")
    first, second = ((tmp_path / name / "README.md").read_text() for name in ("first", "second"))
    assert first == second and "61.23" in first
    (tmp_path / "second/README.md").write_text("My own words.\n")
    again.save_pretrained(tmp_path / "second")
    assert (tmp_path / "second/README.md").read_text() == "My own words.\n"


class Hub:
    """Keeps what would have been uploaded."""

    def __init__(self, token: str | None = None):
        self.token = token

    def create_repo(self, repo_id: str, private: bool | None, exist_ok: bool) -> SimpleNamespace:
        assert exist_ok and private
        return SimpleNamespace(repo_id=f"me/{repo_id}")

    def upload_folder(self, repo_id: str, folder_path: str, **options: object) -> str:
        Hub.seen = {file.name: file.read_bytes() for file in Path(folder_path).iterdir()}
        Hub.options = options
        return f"https://hub/{repo_id}/commit"


def test_push_uploads_model_processor_and_card(build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(hub, "HfApi", Hub)
    model = build()
    assert model.push_to_hub("night", private=True, revision="v1") == "https://hub/me/night/commit"
    assert Hub.options == {"commit_message": hub.MESSAGE, "revision": "v1"}
    assert {"model.safetensors", "config.json", "preprocessor_config.json", "README.md"} <= set(Hub.seen)
    assert b'tmt.load("me/night")' in Hub.seen["README.md"]
    for name, content in Hub.seen.items():
        (tmp_path / name).write_bytes(content)
    assert TMTForSemanticSegmentation.from_pretrained(tmp_path).config.num_labels == model.config.num_labels
