"""Colour does not give the class away: classifiers of single pixels stay under 25 mIoU on their own domain."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from tmt.data import IGNORE
from tmt.synthetic import DOMAINS, render

LIMIT = 25.0
NEIGHBOURS = 15


def pixels(name, indices, each):
    """Colours float32 (n, 3) and classes int64 (n,) of `each` labelled pixels of every image."""
    rng, colours, classes = np.random.default_rng(0), [], []
    for index in indices:
        image, label = render(name, 0, index, (96, 192))
        chosen = rng.choice(np.flatnonzero(label.ravel() != IGNORE), each, replace=False)
        colours.append(image.reshape(-1, 3)[chosen] / 127.5 - 1)
        classes.append(label.ravel()[chosen])
    return np.concatenate(colours).astype(np.float32), np.concatenate(classes).astype(np.int64)


def miou(predicted, truth):
    """Mean IoU over the classes in `truth`, in percent."""
    confusion = np.bincount(truth * 19 + predicted, minlength=361).reshape(19, 19)
    hits = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - hits
    return 100 * (hits / np.maximum(union, 1))[confusion.sum(1) > 0].mean()


def nearest_neighbours(colours, classes, queries):
    """The most frequent class among the nearest training pixels."""
    _, nearest = cKDTree(colours).query(queries, k=NEIGHBOURS)
    votes = np.apply_along_axis(np.bincount, 1, classes[nearest], minlength=19)
    return votes.argmax(axis=1)


def logistic_regression(colours, classes, queries, balanced):
    """Linear in the colour; balanced weights give rare classes the same say as frequent ones."""
    inputs, targets = torch.from_numpy(colours), torch.from_numpy(classes)
    weight = 1 / torch.bincount(targets, minlength=19).clamp(min=1).float() if balanced else None
    model = torch.nn.Linear(3, 19)
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=60)

    def closure():
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs), targets, weight)
        loss.backward()
        return loss

    optimiser.step(closure)
    return model(torch.from_numpy(queries)).argmax(dim=1).numpy()


@pytest.fixture(scope="module", params=list(DOMAINS))
def split(request):
    """Training and held-out pixels of one domain."""
    return pixels(request.param, range(120), 600), pixels(request.param, range(10_000, 10_030), 1000)


def test_nearest_neighbours_stay_under_the_limit(split):
    (colours, classes), (queries, truth) = split
    score = miou(nearest_neighbours(colours, classes, queries), truth)
    assert 2 < score < LIMIT


@pytest.mark.parametrize("balanced", [False, True])
def test_logistic_regression_stays_under_the_limit(split, balanced):
    (colours, classes), (queries, truth) = split
    score = miou(logistic_regression(colours, classes, queries, balanced), truth)
    assert 1 < score < LIMIT
