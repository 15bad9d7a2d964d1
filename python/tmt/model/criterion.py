"""The loss: from every layer's predictions, and the masks and classes of each image, to one number and its parts.

Mask2Former's set prediction loss: a matching per layer, then cross-entropy on classes, and binary cross-entropy and
dice on sampled points of the masks. A mask's value at a point is its embedding times the mask features sampled
there, so that no full-size mask is made: points, features and ground truth are those of the image, shared by its
masks and layers; which of the candidate points count is decided mask by mask, layer by layer. Pixels that a caller
says are without a label are unknown, not background: unlabelled.py.
"""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tmt.data.labels import IGNORE
from tmt.runtime.precision import full, without_autocast

from .configuration import TMTConfig
from .matcher import Matching, assign, pairwise_bce, pairwise_dice
from .point_sampling import draw_points, point_counts, sample_features, sample_targets
from .unlabelled import Ground, ground_of, labelled_cells, labelled_share, on_labelled

MASKS_AT_ONCE = 16


class LossOutput(NamedTuple):
    """Result of TMTLoss."""

    loss: Tensor  # (), with gradient
    parts: dict[str, Tensor]  # weighted parts without gradient; the last layer's unnumbered, layer i's ending in _i


class Judged(NamedTuple):
    """What is predicted of B images of one size by L supervised layers, and what is true; see `TMTLoss.forward`."""

    mask_embeddings: Tensor  # (L, B, Q, E)
    mask_features: Tensor  # (B, E, H4, W4)
    class_logits: Tensor  # (L, B, Q, K + 1)
    mask_labels: list[Tensor]  # per image (n_i, H, W)
    class_labels: list[Tensor]  # per image (n_i,)
    sample_seeds: Tensor  # (B,)
    labelled: Tensor | None  # (B, H, W)


class Sums(NamedTuple):
    """Losses of each layer (L,), not yet weighted, summed over images, and what they are to be divided by."""

    classes: Tensor
    bce: Tensor
    dice: Tensor
    class_weights: Tensor  # float64


class TMTLoss(nn.Module):
    """Class, mask and dice loss with deep supervision, normalised over all processes.

    The points of an image come from a generator seeded with its own number and sums are divided by global counts:
    the loss of a global batch does not depend on how it is split. The loss of one process is scaled so that the mean
    over processes, which DDP takes of gradients, is the global loss.
    """

    def __init__(self, config: TMTConfig):
        super().__init__()
        self.classes: int = config.num_labels or 0
        self.empty_weight: Tensor
        self.weights = {
            "loss_cross_entropy": config.class_weight,
            "loss_mask": config.mask_weight,
            "loss_dice": config.dice_weight,
        }
        self.no_object_weight = config.no_object_weight
        self.class_weights = config.weights_by_class
        self.ignore_unlabelled = config.settings.ignore_unlabelled
        self.points = point_counts(config.train_num_points, config.oversample_ratio, config.importance_sample_ratio)
        self.register_buffer("empty_weight", torch.ones(self.classes + 1))
        self.reset()

    def weigh(self, config: TMTConfig) -> None:
        """Take the class weights of another configuration; raises ValueError for those of other classes."""
        self.class_weights = config.weights_by_class
        self.reset()

    def reset(self) -> None:
        """Fill the class weights (K + 1,): 1, or `class_weights`; `no_object_weight` for "no object", the last one."""
        with torch.no_grad():
            self.empty_weight.copy_(torch.tensor([*self.class_weights, self.no_object_weight]))

    def forward(
        self,
        mask_embeddings: Tensor,
        mask_features: Tensor,
        class_logits: Tensor,
        mask_labels: list[Tensor],
        class_labels: list[Tensor],
        sample_seeds: Tensor | None = None,
        labelled: Tensor | None = None,
    ) -> LossOutput:
        """Match and compare.

        Where pixels have no label, points are labelled pixels, a query without a mask counts with the share of its
        mask that lies on labelled ground, and an image without any label counts nowhere.

        Args:
            mask_embeddings: (L, B, Q, E) of L supervised layers, the last one's last.
            mask_features: (B, E, H4, W4).
            class_logits: (L, B, Q, K + 1).
            mask_labels: per image (n_i, H, W), bool, or in [0, 1].
            class_labels: per image (n_i,) int64.
            sample_seeds: (B,) int64, one seed per image; None: drawn from torch's generator.
            labelled: (B, H, W) bool, the pixels that have a label; None: all, those of no mask being background.

        Raises:
            ValueError: lists that do not fit the batch or each other, masks with other values, `labelled` of another
                size or type, or without a pixel where there are masks.
        """
        check_labels(mask_labels, class_labels, mask_features.shape[0], labelled)
        check_values(mask_labels)
        seeds = random_seeds(len(mask_labels)) if sample_seeds is None else sample_seeds
        images = Judged(mask_embeddings, mask_features, class_logits, mask_labels, class_labels, seeds, labelled)
        return self.together([images])

    def together(self, groups: Sequence[Judged]) -> LossOutput:
        """The loss of one batch whose images have several sizes, each group being those of one; nothing is checked."""
        masks = sum(len(labels) for group in groups for labels in group.class_labels)
        with without_autocast(groups[0].mask_features):
            sums = Sums(*(reduce(torch.add, parts) for parts in zip(*map(self._sums, groups), strict=True)))
            normalisers = self._normalisers(masks, sums.class_weights)
            parts = {
                "loss_cross_entropy": sums.classes / normalisers[1:],
                "loss_mask": sums.bce / normalisers[0],
                "loss_dice": sums.dice / normalisers[0],
            }
            weighted = {name: self.weights[name] * values for name, values in parts.items()}
            loss = torch.stack(list(weighted.values())).sum()
        return LossOutput(loss, _by_layer(weighted))

    def _sums(self, group: Judged) -> Sums:
        embeddings, features, class_logits = (full(part) for part in group[:3])
        class_labels, labelled = group.class_labels, group.labelled if self.ignore_unlabelled else None
        ground = None if labelled is None else ground_of(labelled.to(features.device))
        coordinates, targets, cells = self._points_of(group.mask_labels, group.sample_seeds, features, ground)
        features = features.contiguous(memory_format=torch.channels_last)  # for both samplings
        split = self.points.matching
        sampled = sample_features(features.detach(), coordinates[:, :split], cells)  # (B, E, matching)
        matching = self._match(embeddings, sampled, class_logits, targets[..., :split], class_labels)
        wanted = self._wanted_classes(class_logits, class_labels, matching)
        share = None if ground is None else labelled_share(embeddings, features, ground)
        sampled = sample_features(features, coordinates[:, split:], cells)  # (B, E, candidates + uniform)
        bce, dice = self._mask_losses(embeddings, sampled, targets[..., split:], matching)
        return Sums(self._class_loss(class_logits, wanted, share), bce, dice, self._weight(wanted, share))

    def _points_of(
        self, mask_labels: list[Tensor], seeds: Tensor, features: Tensor, ground: Ground | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Points (B, P, 2), the masks' values there (B, n, P), and the positions of features that count, None: all."""
        points = draw_points(seeds, sum(self.points) - self.points.uncertain, features.device)
        if ground is None:
            return points, sample_targets(mask_labels, points), None
        points = on_labelled(points, seeds, ground)
        cells = labelled_cells(ground, *features.shape[-2:])
        return points, sample_targets(mask_labels, points, ground.partial), cells

    @torch.no_grad()
    def _match(self, embeddings, sampled, class_logits, targets, class_labels) -> Matching:
        """embeddings (L, B, Q, E), sampled (B, E, P), targets (B, n, P) -> the cheapest pairs, layer by layer."""
        # A layer at a time: what all of them predict at once is the largest thing that a step would hold.
        shape_cost = torch.stack([self._shape_cost(one @ sampled, targets) for one in embeddings], 1)  # (B, L, Q, n)
        wanted = _padded(class_labels, targets.shape[1])[:, None, None].expand(shape_cost.shape)
        probability = class_logits.softmax(-1).transpose(0, 1).gather(-1, wanted)  # (B, L, Q, n)
        cost = shape_cost - self.weights["loss_cross_entropy"] * probability
        return assign(cost, [len(labels) for labels in class_labels])

    def _shape_cost(self, logits: Tensor, targets: Tensor) -> Tensor:
        """logits (B, Q, P), targets (B, n, P) -> what it costs to pair their masks (B, Q, n)."""
        cost = self.weights["loss_mask"] * pairwise_bce(logits, targets)
        return cost + self.weights["loss_dice"] * pairwise_dice(logits, targets)

    def _wanted_classes(self, class_logits: Tensor, class_labels: list[Tensor], matching: Matching) -> Tensor:
        """class_logits (L, B, Q, K + 1) -> the class of each query (L, B, Q) int64, K without a mask."""
        layers, batch, queries, _ = class_logits.shape
        number = max([1, *map(len, class_labels)])
        labels = _padded(class_labels, number)[:, None].expand(-1, layers, -1).gather(2, matching.targets)
        # Pairs that only pad write to a slot of their own behind the last query.
        places = matching.queries.masked_fill(~matching.valid[:, None], queries)
        wanted = labels.new_full((batch, layers, queries + 1), self.classes).scatter_(2, places, labels)
        return wanted[..., :queries].transpose(0, 1)

    def _weight(self, wanted: Tensor, share: Tensor | None) -> Tensor:
        """wanted (L, B, Q) -> sum of class weights of each layer (L,) float64, "no object" counting its `share`."""
        nothing = wanted == self.classes
        unmatched = (nothing.double() if share is None else share.double() * nothing).sum((1, 2))
        weight = wanted.new_tensor([*self.class_weights, 0.0], dtype=torch.float64)
        return weight[wanted].sum((1, 2)) + self.no_object_weight * unmatched

    def _class_loss(self, class_logits: Tensor, wanted: Tensor, share: Tensor | None) -> Tensor:
        """class_logits (L, B, Q, K + 1), wanted (L, B, Q) -> weighted cross-entropy of each layer (L,), summed."""
        losses = F.cross_entropy(
            class_logits.flatten(0, 2), wanted.flatten(), weight=self.empty_weight.to(class_logits), reduction="none"
        )
        if share is not None:
            losses = losses * torch.where(wanted == self.classes, share, 1.0).flatten()
        return losses.view(len(wanted), -1).sum(1)

    def _mask_losses(self, embeddings, sampled, targets, matching: Matching) -> tuple[Tensor, Tensor]:
        """embeddings (L, B, Q, E), sampled (B, E, P), targets (B, n, P) -> summed BCE and dice of each layer (L,)."""
        index = matching.queries[..., None].expand(-1, -1, -1, embeddings.shape[-1])
        matched = embeddings.transpose(0, 1).gather(2, index)  # (B, L, M, E)
        logits = matched.flatten(1, 2) @ sampled  # (B, L * M, P)
        chosen = self._choose_points(logits.detach())
        labels = _targets_at(targets, matching, chosen)
        logits = logits.gather(2, chosen)
        counted = matching.valid[:, None].to(logits)
        shape = matching.queries.shape
        bce = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(-1).view(shape)
        dice = dice_loss(logits.sigmoid(), labels).view(shape)
        return (bce * counted).sum((0, 2)), (dice * counted).sum((0, 2))

    def _choose_points(self, logits: Tensor) -> Tensor:
        """logits (B, R, candidates + uniform) -> index (B, R, uncertain + uniform) of the points each mask uses."""
        candidates, uncertain = self.points.candidates, self.points.uncertain
        chosen = [  # some masks at a time, so that no second copy of all their logits is made
            some[..., :candidates].abs().topk(uncertain, largest=False, sorted=False).indices
            for some in logits.split(MASKS_AT_ONCE, 1)
        ]
        uniform = torch.arange(candidates, logits.shape[-1], device=logits.device)
        return torch.cat([torch.cat(chosen, 1), uniform.expand(*logits.shape[:2], -1)], -1)

    def _normalisers(self, masks: int, class_weights: Tensor) -> Tensor:
        """Number of masks, then each layer's sum of class weights (1 + L,), per process on average over all processes.

        `class_weights` (L,) float64 is this process's sum.
        """
        sums = torch.cat([class_weights.new_tensor([masks]), class_weights]).float()
        processes = 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
            processes = torch.distributed.get_world_size()
        smallest = torch.full_like(sums, torch.finfo(torch.float32).tiny)
        smallest[0] = 1.0
        return torch.maximum(sums, smallest) / processes


def random_seeds(batch: int) -> Tensor:
    """Seeds (B,) of an image's points, from torch's generator."""
    return torch.randint(2**62, (batch,))


def check_labels(mask_labels: list[Tensor], class_labels: list[Tensor], batch: int, labelled: Tensor | None) -> None:
    """Raise ValueError for lists that do not fit the batch or each other, or `labelled` that does not fit them."""
    if not len(mask_labels) == len(class_labels) == batch:
        raise ValueError(
            f"TMTLoss: mask_labels and class_labels must have one entry per image, {batch}, "
            f"got {len(mask_labels)} and {len(class_labels)}"
        )
    for i, (masks, labels) in enumerate(zip(mask_labels, class_labels, strict=True)):
        if masks.ndim != 3 or len(masks) != len(labels):
            raise ValueError(
                f"TMTLoss: mask_labels[{i}] must be ({len(labels)}, H, W) as class_labels[{i}] says, "
                f"got {tuple(masks.shape)}"
            )
    if labelled is not None:
        _check_labelled(labelled, mask_labels)


def check_values(mask_labels: list[Tensor]) -> None:
    """Raise ValueError for masks with values outside [0, 1]."""
    for i, masks in enumerate(mask_labels):
        _check_values(i, masks)


def _check_values(image: int, masks: Tensor) -> None:
    """masks (n, H, W) of an image; those of more than a bit may hold padding, which would count 255 times."""
    if masks.dtype == torch.bool or not masks.numel():
        return
    smallest, largest = (value.item() for value in masks.aminmax())
    if not (smallest >= 0 and largest <= 1):
        raise ValueError(
            f"TMTLoss: mask_labels[{image}] must be in [0, 1], got {smallest:g} to {largest:g}; "
            "use the processor saved with the model, or set padding to 0"
        )


def _check_labelled(labelled: Tensor, mask_labels: list[Tensor]) -> None:
    if labelled.dtype != torch.bool or labelled.ndim != 3 or len(labelled) != len(mask_labels):
        raise ValueError(
            f"TMTLoss: labelled must be ({len(mask_labels)}, H, W) bool, "
            f"got {tuple(labelled.shape)} {str(labelled.dtype).removeprefix('torch.')}"
        )
    known = labelled.flatten(1).any(1).tolist()
    for i, masks in enumerate(mask_labels):
        if masks.shape[1:] != labelled.shape[1:]:
            raise ValueError(
                f"TMTLoss: labelled must be of the size of mask_labels[{i}], {tuple(masks.shape[1:])}, "
                f"got {tuple(labelled.shape[1:])}"
            )
        if len(masks) and not known[i]:
            raise ValueError(
                f"TMTLoss: mask_labels[{i}] must be empty where labelled[{i}] has no pixel, got {len(masks)} masks"
            )


def dice_loss(probability: Tensor, targets: Tensor) -> Tensor:
    """probability and targets (..., P) -> dice loss (...)."""
    overlap = 2 * (probability * targets).sum(-1)
    return 1 - (overlap + 1) / (probability.sum(-1) + targets.sum(-1) + 1)


def masks_from_labels(labels: Tensor, num_classes: int, ignore: int = IGNORE) -> tuple[list[Tensor], list[Tensor]]:
    """One mask per class present in each image.

    Args:
        labels: (B, H, W) int64 train ids.
        num_classes: K, classes are 0 .. K - 1.
        ignore: label that belongs to no mask.

    Returns:
        mask_labels, per image (n_i, H, W) bool, and class_labels, per image (n_i,) int64 ascending.

    Raises:
        ValueError: a label that is neither a class nor `ignore`.
    """
    mask_labels, class_labels = [], []
    for image in labels:
        present = image.unique()
        present = present[present != ignore]
        if len(present) and not 0 <= int(present[0]) <= int(present[-1]) < num_classes:
            raise ValueError(
                f"masks_from_labels: labels must be in [0, {num_classes}) or {ignore}, got {present.tolist()}"
            )
        class_labels.append(present)
        mask_labels.append(image == present[:, None, None])
    return mask_labels, class_labels


def _targets_at(targets: Tensor, matching: Matching, points: Tensor) -> Tensor:
    """targets (B, n, P) and points (B, L * M, p) of each pair's mask -> the targets there (B, L * M, p)."""
    index = matching.targets.flatten(1)[..., None] * targets.shape[-1] + points
    return targets.flatten(1).gather(1, index.flatten(1)).view(points.shape)


def _padded(class_labels: list[Tensor], number: int) -> Tensor:
    """class_labels per image (n_i,) -> (B, number) int64, 0 beyond an image's own."""
    padded = torch.zeros(len(class_labels), number, dtype=torch.int64, device=class_labels[0].device)
    for row, labels in zip(padded, class_labels, strict=True):
        row[: len(labels)] = labels
    return padded


def _by_layer(weighted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses (L,) by name -> scalars without gradient, as transformers names them."""
    parts = {}
    for name, values in weighted.items():
        *others, last = values.detach().unbind()
        parts[name] = last
        parts |= {f"{name}_{i}": value for i, value in enumerate(others)}
    return parts
