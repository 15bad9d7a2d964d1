"""Pixels without a label are unknown: what a model says of them is neither right nor wrong."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from tests.helpers import runs
from tmt.methods import METHODS
from tmt.model import TMTConfig, masks_from_labels
from tmt.model.criterion import TMTLoss
from tmt.model.point_sampling import draw_points, sample, sample_features, sample_targets
from tmt.model.unlabelled import ground_of, labelled_cells, labelled_share, on_labelled
from tmt.runtime.distributed import World
from tmt.settings import ModelConfig, TMTSettings
from tmt.training.segmentation import segmentation_loss

CLASSES, LAYERS, QUERIES, CHANNELS = 5, 2, 7, 8
EMPTY = CLASSES  # the class "no object"
OF_CLASSES = {"loss_cross_entropy", "loss_cross_entropy_0"}
SEEDS = torch.tensor([3, 5])


@pytest.fixture
def loss():
    """loss(**fields of TMTConfig) -> a criterion of few points."""
    return lambda **fields: TMTLoss(TMTConfig(num_labels=CLASSES, train_num_points=200, **fields))


@pytest.fixture
def void_labels(labels):
    """(2, 97, 131): the first image's left part and one spot have no label, the second image is labelled throughout."""
    labels = labels.clone()
    labels[labels == 255] = 1
    labels[0, :, :50] = labels[0, 70:80, 90:100] = 255
    return labels


@pytest.fixture
def predicted():
    """Mask embeddings, mask features of 97 x 131 pixels and class logits, sharp enough to matter."""
    generator = torch.Generator().manual_seed(4)
    sizes = (LAYERS, 2, QUERIES, CHANNELS), (2, CHANNELS, 25, 33), (LAYERS, 2, QUERIES, CLASSES + 1)
    return [torch.randn(size, generator=generator).mul(1.5).requires_grad_() for size in sizes]


def unlabelled_positions(labels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, height, width) bool: positions of which every pixel, that they so much as touch, is 255."""
    found = torch.zeros(len(labels), height, width, dtype=torch.bool)
    _, rows, columns = labels.shape
    for y in range(height):
        for x in range(width):
            top, bottom = y * rows // height, -(-(y + 1) * rows // height)
            left, right = x * columns // width, -(-(x + 1) * columns // width)
            found[:, y, x] = (labels[:, top:bottom, left:right] == 255).flatten(1).all(1)
    return found


def evaluate(criterion, predicted, labels, **more):
    """Loss, its parts, and the gradients of embeddings, features and class logits."""
    inputs = [tensor.detach().clone().requires_grad_() for tensor in predicted]
    output = criterion(*inputs, *masks_from_labels(labels, CLASSES), SEEDS, **more)
    return output, torch.autograd.grad(output.loss, inputs)


def test_logits_on_unlabelled_ground_matter_to_no_mask(loss, predicted, void_labels):
    """Neither to mask and dice loss nor to the matching, nor to their gradients; only "no object" weighs by them."""
    criterion, labelled = loss(no_object_weight=0.0), void_labels != 255
    void = unlabelled_positions(void_labels, 25, 33)
    assert 250 < void.sum() < 450
    embeddings, features, classes = predicted
    other = features.detach().clone()
    other.transpose(0, 1)[:, void] = 20 * torch.randn(CHANNELS, int(void.sum()))
    one, gradients = evaluate(criterion, predicted, void_labels, labelled=labelled)
    two, others = evaluate(criterion, [embeddings, other, classes], void_labels, labelled=labelled)
    assert torch.equal(one.loss, two.loss) and one.parts == two.parts
    for gradient, again in zip(gradients, others, strict=True):
        assert torch.equal(gradient, again)
    assert torch.equal(gradients[1].transpose(0, 1)[:, void], torch.zeros(CHANNELS, int(void.sum())))
    assert (gradients[1].abs().sum(1)[~void] > 0).float().mean() > 0.5  # the others are taught
    one, gradients = evaluate(loss(), predicted, void_labels, labelled=labelled)
    two, others = evaluate(loss(), [embeddings, other, classes], void_labels, labelled=labelled)
    assert {name for name, value in one.parts.items() if value != two.parts[name]} == OF_CLASSES
    assert all(torch.equal(*pair) for pair in zip(gradients[:2], others[:2], strict=True))
    moved, _ = evaluate(criterion, [embeddings, other, classes], void_labels)
    assert abs(moved.loss - one.loss) > 0.1  # without being told, the loss takes them for background


def test_a_query_on_unlabelled_ground_is_not_taught_to_be_nothing(loss, void_labels):
    """Of two queries without a mask, one on labelled, one on unlabelled ground, each counts as its ground says."""
    labels = void_labels[:1].clone()
    labels[:, :, 52:] = 0  # one mask, 0 .. 51 without a label: 13 of 33 positions
    labels[:, :, :52] = 255
    features = torch.zeros(1, 2, 25, 33)
    features[:, 0, :, :13], features[:, 1, :, 13:] = 1, 1
    embeddings = torch.tensor([[30.0, -30.0], [-30.0, 30.0], [-30.0, 30.0]]).view(1, 1, 3, 2)
    classes = torch.zeros(1, 1, 3, CLASSES + 1)
    classes[0, 0, 1, 0] = 9.0  # so that the second query takes the mask, not the third
    arguments = embeddings, features, classes.requires_grad_(), *masks_from_labels(labels, CLASSES), SEEDS[:1]
    output = loss(class_weight=1.0)(*arguments, labelled=labels != 255)
    share = labelled_share(embeddings, features, ground_of(labels != 255)).flatten()
    assert share[0] < 0.05 and 0.99 < share[2] <= 1  # a column of cells lies on both
    (gradient,) = torch.autograd.grad(output.loss, classes)
    pulls = -gradient[0, 0, :, EMPTY]  # towards "no object"
    total = 1 + 0.1 * (share[0] + share[2])
    torch.testing.assert_close(pulls[[0, 2]], 0.1 * share[[0, 2]] * 5 / 6 / total)
    assert pulls[1] < 0 and 0 < pulls[0] < 0.05 * pulls[2]


def test_share_by_hand():
    """Cells of 2 x 2 positions: the left ones unlabelled, the right ones labelled, at the bottom only half."""
    labelled = torch.zeros(2, 16, 16, dtype=torch.bool)
    labelled[0, :8, 8:] = labelled[0, 8:, 12:] = labelled[1] = True
    features = torch.tensor([[1.0, 3.0, 0.0, 2.0]] * 2 + [[-4.0, 0.0, -1.0, 1.0]] * 2).expand(2, 1, 4, 4)
    embeddings = torch.tensor([1.0, -2.0, 100.0, -0.0]).view(1, 1, 4, 1).expand(1, 2, 4, 1)
    found = labelled_share(embeddings, features, ground_of(labelled))
    a, b, c, d = 2.0, 1.0, -2.0, 0.0  # mean logits of the cells: left, right; bottom left, right

    def by_hand(e: float) -> float:
        top_left, top, bottom_left, bottom = (torch.tensor(e * x).sigmoid().item() for x in (a, b, c, d))
        return (top + bottom / 2) / (top_left + top + bottom_left + bottom)

    assert found[0, 0].tolist() == pytest.approx([by_hand(1), by_hand(-2), by_hand(100), 0.375], abs=1e-5)
    assert found[0, 1].tolist() == [1.0] * 4  # exactly
    nowhere = labelled_share(embeddings, torch.full((2, 1, 4, 4), -1e4), ground_of(labelled))
    assert nowhere[0, 0, 0].item() == pytest.approx(0.375)  # the labelled area's
    assert not labelled_share(embeddings.clone().requires_grad_(), features, ground_of(labelled)).requires_grad


def test_an_image_without_labels_contributes_and_divides_nothing(loss, predicted, void_labels):
    labels = void_labels.clone()
    labels[1] = 255
    masks, classes = masks_from_labels(labels[:1], CLASSES)
    inputs = [predicted[0][:, :1], predicted[1][:1], predicted[2][:, :1]]
    alone = loss()(*inputs, masks, classes, SEEDS[:1], labelled=labels[:1] != 255)
    expected = torch.autograd.grad(alone.loss, inputs)
    together, gradients = evaluate(loss(), predicted, labels, labelled=labels != 255)
    torch.testing.assert_close(together.loss, alone.loss, rtol=1e-6, atol=0)
    for gradient, wanted, axis in zip(gradients, expected, (1, 0, 1), strict=True):
        kept, void = gradient.unbind(axis)
        torch.testing.assert_close(kept, wanted.squeeze(axis), rtol=1e-5, atol=1e-8)
        assert torch.equal(void, torch.zeros_like(void))


def test_a_batch_without_labels_costs_nothing_and_reaches_every_weight(build, images, labels):
    """So that processes whose images have no label keep in step with the others."""
    model, labels = build().train(), torch.full_like(labels, 255)
    outputs = model(images, *masks_from_labels(labels, CLASSES), labelled=labels != 255)
    outputs.loss.backward()
    assert outputs.loss.item() == 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter.grad, torch.zeros_like(parameter)), name


def test_without_ignored_pixels_nothing_changes(loss, predicted, void_labels):
    """To the bit; and of a batch with both, the complete image keeps its points and what is read there."""
    complete = void_labels.masked_fill(void_labels == 255, 2)
    told, gradients = evaluate(loss(), predicted, complete, labelled=complete != 255)
    plain, others = evaluate(loss(), predicted, complete)
    assert torch.equal(told.loss, plain.loss) and told.parts == plain.parts
    assert all(torch.equal(one, other) for one, other in zip(gradients, others, strict=True))
    ground = ground_of(void_labels != 255)
    points = draw_points(SEEDS, 500, torch.device("cpu"))
    moved = on_labelled(points, SEEDS, ground)
    assert torch.equal(moved[1], points[1]) and not torch.equal(moved[0], points[0])
    read = sample_features(predicted[1], moved, labelled_cells(ground, 25, 33))
    assert torch.equal(read[1], sample_features(predicted[1], points)[1])


def test_the_switch_restores_the_old_treatment(loss, predicted, void_labels):
    labelled = void_labels != 255
    old, gradients = evaluate(loss(ignore_unlabelled=False), predicted, void_labels, labelled=labelled)
    plain, others = evaluate(loss(), predicted, void_labels)
    new, _ = evaluate(loss(), predicted, void_labels, labelled=labelled)
    assert torch.equal(old.loss, plain.loss) and not torch.equal(new.loss, plain.loss)
    assert all(torch.equal(one, other) for one, other in zip(gradients, others, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_the_switch(method):
    for on in (True, False):
        settings = method().configure(TMTSettings(ignore_unlabelled=not on), ModelConfig(ignore_unlabelled=on))
        assert settings.ignore_unlabelled is on


def test_the_switch_is_saved(build, tmp_path):
    build(ignore_unlabelled=False).save_pretrained(tmp_path)
    loaded = TMTConfig.from_pretrained(tmp_path)
    assert loaded.settings == replace(TMTSettings(), ignore_unlabelled=False, estimator_hidden=32)


def test_training_says_which_pixels_are_labelled(void_labels):
    given = {}

    def network(**arguments):
        given.update(arguments)
        raise InterruptedError

    batch = {"pixel_values": torch.zeros(2, 3, 97, 131), "labels": void_labels, "sample_seeds": SEEDS}
    with pytest.raises(InterruptedError):
        segmentation_loss(network, World(torch.device("cpu")), False, CLASSES)(batch)
    assert torch.equal(given["labelled"], void_labels != 255)


def test_points_are_labelled_pixels_drawn_uniformly():
    labelled = torch.zeros(3, 97, 131, dtype=torch.bool)
    labelled[0, 5, 7] = labelled[0, 96, 130] = labelled[0, 0, 0] = labelled[0, 50, 1] = True
    seeds, ground = torch.tensor([1, 2, 1]), ground_of(labelled)
    drawn = draw_points(seeds, 4000, torch.device("cpu"))
    points = on_labelled(drawn, seeds, ground)
    pixels, counts = (points[0] * torch.tensor([131, 97])).floor().long().unique(dim=0, return_counts=True)
    assert pixels.tolist() == [[0, 0], [1, 50], [7, 5], [130, 96]]
    assert counts.min() > 900 and counts.max() < 1100
    torch.testing.assert_close((points[0] * torch.tensor([131, 97])) % 1, torch.full((4000, 2), 0.5), rtol=0, atol=1e-4)
    assert torch.equal(points[1:], drawn[1:])  # no label at all: nothing counts there
    alone = on_labelled(drawn[:1], seeds[:1], ground_of(labelled[:1]))
    assert torch.equal(alone, points[:1])


def test_a_point_has_its_own_pixels_label():
    """Exactly: mixed with a neighbour without a label it would be a little background."""
    labels = torch.randint(0, 2, (1, 97, 131), generator=torch.Generator().manual_seed(1))
    labels[labels == 1] = 255
    ground = ground_of(labels != 255)
    points = on_labelled(draw_points(SEEDS[:1], 3000, torch.device("cpu")), SEEDS[:1], ground)
    masks = [labels == 0]
    assert sample_targets(masks, points, ground.partial).eq(1).all()
    assert not sample_targets(masks, points).eq(1).all()


def test_taps_without_a_label_weigh_nothing():
    maps = torch.tensor([[[[10.0, 20.0], [40.0, 80.0]]]]).double().requires_grad_()
    points = torch.tensor([[[0.375, 0.5], [0.4, 0.3], [0.0, 0.25]]]).double()
    counted = torch.tensor([[[True, False], [True, True]]])
    found = sample_features(maps, points, counted)[0, 0]
    near = (0.375 * 10 + 0.375 * 40 + 0.125 * 80) / 0.875
    x, y = 0.3, 0.1  # fractions of the second point
    second = ((1 - x) * (1 - y) * 10 + (1 - x) * y * 40 + x * y * 80) / (1 - x * (1 - y))
    torch.testing.assert_close(found, torch.tensor([near, second, 5.0]).double())  # at the border as `sample`: half
    assert found[2] == sample(maps, points)[0, 0, 2]
    (gradient,) = torch.autograd.grad(found.sum(), maps)
    assert gradient[0, 0, 0, 1] == 0 and (gradient != 0).sum() == 3
    assert torch.equal(sample_features(maps, points, torch.zeros_like(counted)), torch.zeros(1, 1, 3).double())


@pytest.mark.parametrize("size", [(96, 128), (97, 131), (5, 3)])
def test_positions_that_count(size):
    labels = torch.where(torch.rand(2, *size, generator=torch.Generator().manual_seed(0)) < 0.9, 255, 0)
    height, width = -(-size[0] // 4), -(-size[1] // 4)
    expected = ~unlabelled_positions(labels, height, width)
    assert torch.equal(labelled_cells(ground_of(labels != 255), height, width), expected)


def test_what_does_not_fit_is_refused(loss, predicted, void_labels):
    labelled = void_labels != 255
    for given, message in (
        (labelled[:1], r"labelled must be \(2, H, W\) bool, got \(1, 97, 131\) bool"),
        (labelled.int(), r"labelled must be \(2, H, W\) bool, got \(2, 97, 131\) int32"),
        (labelled[:, 1:], r"labelled must be of the size of mask_labels\[0\], \(97, 131\), got \(96, 131\)"),
        (labelled & False, r"mask_labels\[0\] must be empty where labelled\[0\] has no pixel, got \d masks"),
    ):
        with pytest.raises(ValueError, match=f"^TMTLoss: {message}$"):
            evaluate(loss(), predicted, void_labels, labelled=given)


def four_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels: two with ignored pixels, one without any label, one labelled throughout."""
    generator = torch.Generator().manual_seed(6)
    images = torch.randn(4, 3, 64, 96, generator=generator)
    labels = torch.randint(0, CLASSES, (4, 4, 6), generator=generator)
    labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)
    labels[0, :, 30:] = labels[1] = labels[3, 10:30] = 255
    return images, labels


def distributed_gradients(path: Path, variables: dict[str, str]) -> int:
    """Mean loss and gradients, as DDP leaves them, of this process's share of `four_images`, saved to `path`-rank."""
    os.environ.update(variables)
    runs.redirect(path.with_suffix(".log"))
    from tests.model.conftest import SIZES, SWIN
    from tmt.model import TMTForSemanticSegmentation, initialise_from_scratch
    from tmt.runtime.distributed import join

    with join("cpu") as world:
        torch.manual_seed(0)
        config = TMTConfig(**SIZES, backbone_config=dict(SWIN), estimator_hidden=32)
        model = TMTForSemanticSegmentation(config).eval()
        initialise_from_scratch(model)
        network = model if world.size == 1 else DistributedDataParallel(model)
        images, labels, seeds = (part.chunk(world.size)[world.rank] for part in (*four_images(), torch.arange(4)))
        masks, classes = masks_from_labels(labels, CLASSES)
        loss = network(images, masks, classes, sample_seeds=seeds, labelled=labels != 255).loss
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
        mean = world.sum(loss.detach().clone()) / world.size
        torch.save({"loss": mean, "gradients": gradients}, f"{path}-{world.rank}")
    return 0


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_a_global_batch(processes, tmp_path):
    """With four, one process has nothing but the image without labels."""
    found = []
    for size in (1, processes):
        path = tmp_path / f"of{size}"
        world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(runs.free_port()), "WORLD_SIZE": str(size)}
        started = [runs.start(distributed_gradients, path, {**world, "RANK": str(rank)}) for rank in range(size)]
        assert runs.finish_all(started) == [0] * size, path.with_suffix(".log").read_text()
        found.append([torch.load(f"{path}-{rank}", weights_only=True) for rank in range(size)])
    (one,), many = found
    whole = torch.stack([gradient.norm() for gradient in one["gradients"].values()]).norm()
    for part in many:
        torch.testing.assert_close(part["loss"], one["loss"], rtol=1e-5, atol=0)
        for name, expected in one["gradients"].items():
            error = (part["gradients"][name] - expected).norm() / expected.norm().clamp(min=1e-3 * whole)
            assert error < 1e-4, f"{name}: gradients differ by {error:.1e}"
