"""The loss on its own: points, matching, normalisation over processes, labels."""

import itertools

import pytest
import torch

from tmt.model import criterion, masks_from_labels, point_sampling
from tmt.model.matcher import assign, pairwise_bce, pairwise_dice
from tmt.model.point_sampling import draw_points, point_counts


def test_masks_from_labels_have_one_entry_per_present_class():
    labels = torch.tensor([[[0, 0], [2, 255]], [[255, 255], [255, 255]]])
    masks, classes = masks_from_labels(labels, 3)
    assert [c.tolist() for c in classes] == [[0, 2], []]
    assert masks[0].tolist() == [[[True, True], [False, False]], [[False, False], [True, False]]]
    assert masks[1].shape == (0, 2, 2)


@pytest.mark.parametrize("bad", [3, 254, -1])
def test_labels_outside_the_classes_are_refused(bad):
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\) or 255"):
        masks_from_labels(torch.tensor([[[0, bad]]]), 3)


def test_points_of_an_image_depend_on_its_seed_alone():
    together = draw_points(torch.tensor([5, 9, 5]), 40, torch.device("cpu"))
    assert together.shape == (3, 40, 2) and together.min() >= 0 and together.max() < 1
    assert torch.equal(together[0], together[2]) and not torch.equal(together[0], together[1])
    assert torch.equal(together[1:2], draw_points(torch.tensor([9]), 40, torch.device("cpu")))


def test_point_counts_are_mask2formers():
    assert point_counts(12544, 3.0, 0.75) == (12544, 37632, 9408, 3136)


def test_pairwise_costs_equal_loops():
    logits, targets = torch.randn(2, 3, 20) * 4, torch.rand(2, 5, 20)
    bce, dice = pairwise_bce(logits, targets), pairwise_dice(logits, targets)
    for b, q, n in itertools.product(range(2), range(3), range(5)):
        expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[b, q], targets[b, n])
        torch.testing.assert_close(bce[b, q, n], expected)
        p = logits[b, q].sigmoid()
        overlap = 1 - (2 * (p * targets[b, n]).sum() + 1) / (p.sum() + targets[b, n].sum() + 1)
        torch.testing.assert_close(dice[b, q, n], overlap)


def test_assignment_is_the_cheapest_and_ignores_padding():
    cost = torch.rand(2, 1, 3, 4)
    found = assign(cost, [4, 2])
    assert found.valid.tolist() == [[True] * 3, [True, True, False]]
    for b, number in enumerate([4, 2]):
        pairs = min(3, number)
        total = cost[b, 0][found.queries[b, 0, :pairs], found.targets[b, 0, :pairs]].sum()
        best = min(
            sum(cost[b, 0, q, t] for q, t in zip(queries, targets, strict=True))
            for queries in itertools.permutations(range(3), pairs)
            for targets in itertools.combinations(range(number), pairs)
        )
        torch.testing.assert_close(total, best)


def test_costs_that_are_not_finite_are_matched_last():
    cost = torch.tensor([[[[float("nan"), 1.0], [0.0, float("inf")]]]])
    found = assign(cost, [2])
    assert dict(zip(found.queries[0, 0].tolist(), found.targets[0, 0].tolist(), strict=True)) == {0: 1, 1: 0}


def test_loss_is_a_function_of_the_seeds(build, images, labels):
    model, wanted = build(), masks_from_labels(labels, 5)
    with torch.no_grad():
        one, again, other = (
            model(images, *wanted, sample_seeds=torch.tensor(s)).loss for s in ([1, 2], [1, 2], [3, 4])
        )
        torch.manual_seed(7)
        drawn = model(images, *wanted).loss
        torch.manual_seed(7)
        assert torch.equal(model(images, *wanted).loss, drawn)
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_loss_does_not_depend_on_how_the_batch_is_split(build, images, labels, monkeypatch):
    """Two processes with an image each, whose all_reduce sees the other's counts, against one process with both."""
    model, (masks, classes) = build(), masks_from_labels(labels, 5)
    assert len(classes[0]) != len(classes[1])  # else local counts would do
    model.zero_grad()
    whole = model(images, masks, classes, sample_seeds=torch.tensor([11, 12])).loss
    whole.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    counts = [model.criterion._normalisers(n, torch.full((5,), n + 0.1 * (12 - n)).double()) for n in map(len, classes)]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums: sums.copy_(counts[0] + counts[1]))
    model.zero_grad()
    halves = [
        model(images[i : i + 1], masks[i : i + 1], classes[i : i + 1], sample_seeds=torch.tensor([11 + i])).loss
        for i in range(2)
    ]
    (sum(halves) / 2).backward()  # as DDP averages
    torch.testing.assert_close(sum(halves) / 2, whole, rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_more_masks_than_queries(build, images):
    model = build(num_queries=3).train()
    labels = torch.arange(5).repeat(97, 27)[:, :131].expand(2, 97, 131)
    outputs = model(images, *masks_from_labels(labels, 5))
    outputs.loss.backward()
    assert torch.isfinite(outputs.loss)


def test_labels_that_do_not_fit_are_refused(build, images, labels):
    model, (masks, classes) = build(), masks_from_labels(labels, 5)
    with pytest.raises(ValueError, match="one entry per image, 2, got 1 and 2"):
        model(images, masks[:1], classes)
    with pytest.raises(ValueError, match=r"mask_labels\[1\] must be"):
        model(images, masks, [classes[0], classes[1][:-1]])


def test_a_perfect_prediction_costs_almost_nothing(build, labels):
    """Masks and classes that equal the labels leave a small loss; the same masks with wrong classes do not."""
    criterion = build().criterion
    masks, classes = masks_from_labels(labels[:1], 5)
    features = (2.0 * masks[0].float() - 1.0)[None] * 20  # one channel per mask
    embeddings = torch.zeros(1, 1, 12, len(masks[0]))
    embeddings[0, 0, : len(masks[0])] = torch.eye(len(masks[0]))
    embeddings[0, 0, len(masks[0]) :] = -1.0
    logits = torch.full((1, 1, 12, 6), -10.0)
    logits[..., 5] = 10.0
    for query, label in enumerate(classes[0].tolist()):
        logits[0, 0, query] = -10.0
        logits[0, 0, query, label] = 10.0
    seeds = torch.tensor([0])
    right = criterion(embeddings, features, logits, masks, classes, seeds)
    wrong = criterion(embeddings, features, logits, masks, [(classes[0] + 1) % 5], seeds)
    assert right.loss < 2 < 10 < wrong.loss  # what is left: the most uncertain points, on the borders
    assert set(right.parts) == {"loss_cross_entropy", "loss_mask", "loss_dice"}


def test_empty_weight_is_mask2formers(build):
    weight = build().state_dict()["criterion.empty_weight"]
    torch.testing.assert_close(weight, torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.1]))
    assert criterion.TMTLoss(build().config).no_object_weight == 0.1


def test_sampling_of_many_channels_equals_grid_sample():
    """Values and gradient, at points on and over the border as well."""
    maps = torch.randn(2, 7, 5, 9, dtype=torch.float64, requires_grad=True)
    points = torch.rand(2, 40, 2, dtype=torch.float64)
    points[0, :4] = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    found, expected = point_sampling.sample_features(maps, points), point_sampling.sample(maps, points)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    gradients = (torch.autograd.grad((values * weight).sum(), maps) for values in (found, expected))
    torch.testing.assert_close(*gradients)
