"""What classes weigh in the classification loss: the formula, who is told, what is saved, what is refused."""

import json
from dataclasses import replace

import pytest
import torch

from tmt.data import LabelSet
from tmt.errors import ConfigError
from tmt.methods import METHODS
from tmt.model import TMTConfig, TMTForSemanticSegmentation, load_model, masks_from_labels
from tmt.model.class_weights import weights_by_class
from tmt.model.criterion import TMTLoss
from tmt.model.factory import open_base, open_model
from tmt.settings import ModelConfig, TMTSettings, arguments

NAMES = ("road", "traffic light", "person")
WEIGHTS = (0.5, 2.0, 3.0)
LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, [1, 1, 1]),
        ((0.5, 2, 0), [0.5, 2, 0]),
        (("person=3",), [1, 1, 3]),
        (("Traffic_Light = 2.5", "road=0"), [0, 2.5, 1]),
    ],
)
def test_weights_by_number_and_by_name(given, expected):
    assert weights_by_class(given, NAMES) == expected


REFUSED = [
    ((1.0, 2.0), "must be one number for each of the 3 classes, got 2"),
    ((), "must be one number for each of the 3 classes, got 0"),
    (("rider=2",), "must name classes as name=weight, of road, traffic light, person, got 'rider=2'"),
    (("none",), "must name classes as name=weight, of road, traffic light, person, got 'none'"),
    (("road=1", "Road=2"), "must name each class once, got road twice"),
    (("road=much",), "must be name=weight with a number for weight, got 'road=much'"),
    (("person=-1",), "must be finite numbers of at least 0, got -1 for person"),
    (("person=nan",), "must be finite numbers of at least 0, got nan for person"),
    ((0.0, float("inf"), 1.0), "must be finite numbers of at least 0, got inf for traffic light"),
    ((0.0, 0.0, 0.0), "must be above 0 for at least one class, got 0 for all"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED)
def test_what_cannot_be_used_is_named(given, said):
    with pytest.raises(ValueError) as error:
        TMTConfig(class_weights=given, **LABELS)
    assert str(error.value) == f"TMTConfig: class_weights {said}"


def test_a_negative_number_is_refused_by_the_setting():
    with pytest.raises(
        ConfigError, match=r"class_weights: must be a tuple, each a number of at least 0 .*got \(1, -1\)"
    ):
        TMTSettings(class_weights=(1, -1))


@pytest.mark.parametrize("given", ["[0.5,2,3]", "[traffic light=2,person=3]", "null"])
def test_the_command_line_and_yaml_take_them(given, tmp_path):
    config = arguments.parse([f"--model.class_weights={given}"])
    (tmp_path / "config.yaml").write_text(arguments.to_yaml(config))
    assert arguments.from_yaml(tmp_path / "config.yaml") == config
    assert config.model.class_weights in ((0.5, 2.0, 3.0), ("traffic light=2", "person=3"), None)


def evaluate(class_weights, told, **fields):
    """Loss by its parts and gradient of class logits: of five queries, one to three answer for road, light, person."""
    criterion = TMTLoss(TMTConfig(train_num_points=64, class_weights=class_weights, **LABELS, **fields))
    labels = torch.arange(3).repeat_interleave(8).expand(1, 16, 24).clone()
    labels[:, :4, :8] = 255 if told else 0
    masks, classes = masks_from_labels(labels, 3)
    features = torch.full((1, 3, 4, 6), -20.0)
    for i in range(3):
        features[:, i, :, 2 * i : 2 * i + 2] = 20.0
    embeddings = torch.cat([torch.eye(3), torch.ones(2, 3)]).view(1, 1, 5, 3)
    logits = torch.randn(1, 1, 5, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    output = criterion(embeddings, features, logits, masks, classes, torch.tensor([0]), labels != 255 if told else None)
    return output, logits, torch.autograd.grad(output.loss, logits)[0]


@pytest.mark.parametrize("told", [False, True], ids=["", "unlabelled"])
def test_the_weighted_mean_by_hand(told):
    """Of five queries' cross-entropies, by their classes' weights; the last two have no mask, 0.1 each and less where
    their masks lie on unlabelled ground, as which a query's weight is scaled by the labelled share."""
    output, logits, gradient = evaluate(WEIGHTS, told, no_object_weight=0.1)
    share = 1.0
    if told:
        # cells of 8 x 8 pixels: the mask of ones has logit -20 everywhere, alike: the labelled area's share
        share = 1 - 4 * 8 / (16 * 24)
    wanted, weights = [0, 1, 2, 3, 3], torch.tensor([*WEIGHTS, 0.1 * share, 0.1 * share])
    own = -logits.detach()[0, 0].log_softmax(-1)[range(5), wanted]
    expected = 2.0 * (weights * own).sum() / weights.sum()
    torch.testing.assert_close(output.parts["loss_cross_entropy"], expected, rtol=1e-5, atol=0)
    probability = logits.detach()[0, 0].softmax(-1) - torch.eye(4)[wanted]
    torch.testing.assert_close(gradient[0, 0], 2.0 * weights[:, None] * probability / weights.sum())


@pytest.mark.parametrize("told", [False, True], ids=["", "unlabelled"])
def test_equal_weights_change_nothing_and_mask_losses_never_change(told):
    plain, _, gradient = evaluate(None, told)
    ones, _, same = evaluate((1.0, 1.0, 1.0), told)
    other, _, _ = evaluate(WEIGHTS, told)
    assert torch.equal(plain.loss, ones.loss) and plain.parts == ones.parts and torch.equal(gradient, same)
    assert {name for name, value in other.parts.items() if value != plain.parts[name]} == {"loss_cross_entropy"}


def test_a_class_of_no_weight_teaches_nothing():
    output, _, gradient = evaluate(("road=0",), False)
    assert output.loss.isfinite()
    assert torch.equal(gradient[0, 0, 0], torch.zeros(4)) and gradient[0, 0, 1].abs().sum() > 0


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_them(method):
    settings = method().configure(TMTSettings(class_weights=(9.0,)), ModelConfig(class_weights=("a=2",)))
    assert settings.class_weights == ("a=2",)


def weight_of(model):
    return model.criterion.empty_weight.tolist()


def test_they_are_saved_and_may_be_overridden(build, tmp_path):
    model = build(class_weights=("person=3",), num_labels=3, **LABELS)
    assert weight_of(model) == pytest.approx([1, 1, 3, 0.1])
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["class_weights"] == ["person=3"]
    loaded = load_model(tmp_path)
    assert loaded.config.settings.class_weights == ("person=3",) and weight_of(loaded) == pytest.approx([1, 1, 3, 0.1])
    for load in (load_model, TMTForSemanticSegmentation.from_pretrained):
        assert weight_of(load(tmp_path, class_weights=None)) == pytest.approx([1, 1, 1, 0.1])
        assert weight_of(load(tmp_path, class_weights=WEIGHTS)) == pytest.approx([*WEIGHTS, 0.1])
        with pytest.raises(ValueError, match="class_weights must be one number for each of the 3 classes, got 2"):
            load(tmp_path, class_weights=(1.0, 2.0))


def with_weights(settings: TMTSettings) -> TMTSettings:
    return replace(settings, class_weights=("cat=5",))


def test_names_are_those_of_the_data(build, tmp_path):
    """A base of other classes, and a model whose classes have no names of their own."""
    build(class_weights=("person=3",), num_labels=3, **LABELS).save_pretrained(tmp_path / "other")
    build(num_labels=2).save_pretrained(tmp_path / "nameless")
    pets = LabelSet(("dog", "cat"), torch.zeros(2, 3, dtype=torch.uint8).numpy())
    for model in (
        open_base(tmp_path / "other", with_weights, pets, seed=0),
        open_base(tmp_path / "nameless", with_weights, pets, seed=0),
        open_model(tmp_path / "nameless", with_weights, pets),
    ):
        assert weight_of(model) == pytest.approx([1, 5, 0.1]) and model.config.class_weights == ("cat=5",)
    fish = LabelSet(("eel", "cod"), pets.palette)
    with pytest.raises(ConfigError, match="class_weights must name classes as name=weight, of eel, cod, got 'cat=5'"):
        open_model(tmp_path / "nameless", with_weights, fish)
