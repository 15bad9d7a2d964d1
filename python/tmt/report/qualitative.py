"""Pictures of what the models of a study see, kept in the report's folder so that they need no models a second time."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tmt.data import IGNORE, LabelSet, colourise, normalise
from tmt.data.files import Sample
from tmt.inference.attention import attend
from tmt.inference.sliding_window import enlarge, enlarged, segment
from tmt.model import TMTForSemanticSegmentation
from tmt.report.models import NotThere, estimators_of, judge, target_images, target_model, tell_left_out
from tmt.report.scores import COMPARED, arrow, estimators, seeds_of, titles
from tmt.runtime.files import read_json, write_atomically, write_json
from tmt.settings import InferenceConfig
from tmt.studies import Pair, Study, Variant
from tmt.visualize.drawing import BLUE, RED, glowing, heat, marked, outline, tinted
from tmt.visualize.panels import Panel, spread

LARGEST = 320
"""Width of a picture in pixels, at most: a page has hundreds."""
SHOWN_CLASSES = ("car", "truck", "bus", "person", "road", "sidewalk", "building")
"""Classes whose query is looked at: the first of them that an image has enough of."""
LEAST_SHARE = 0.02
PLAIN_TINT, TMT_TINT = RED, BLUE
"""Attention masks: red for plain attention, blue for TMT, as in the paper."""


@dataclass(frozen=True)
class Picture:
    """One panel."""

    file: str
    """Name in the folder of pictures."""
    caption: str
    alt: str


@dataclass(frozen=True)
class Scene:
    """Panels that belong side by side: one image of one pair."""

    group: str
    """`segmentation`, `transferability`, `regions` or `attention`."""
    source: str
    target: str
    seed: int
    image: str
    """Name of the validation image."""
    note: str
    pictures: tuple[Picture, ...]
    fingerprint: tuple[object, ...]
    """Of the results whose models were drawn."""


def scenes_of(study: Study, folder: Path, images: int = 1, say: Callable[[str], None] = print) -> list[Scene]:
    """The scenes of every pair: drawn where the models are there and the results are others than when last drawn.

    folder: where pictures and their index are kept. images: how many a pair, evenly spread over the validation split.
    """
    kept = read_scenes(folder / "index.json")
    found: list[Scene] = []
    failed: list[tuple[str, NotThere]] = []
    for pair in study.pairs:
        old = [scene for scene in kept if (scene.source, scene.target) == pair]
        seed = _seed(study, pair)
        mark = _mark(study, pair, seed, images)
        if seed is None:
            continue
        if not old or list(old[0].fingerprint) != list(mark):
            try:
                old = list(_draw(study, pair, seed, images, mark, folder))
            except NotThere as error:
                failed.append((f"{arrow(pair)}{' (those of other results are shown)' if old else ''}", error))
        found += old
    tell_left_out("pictures", failed, say)
    if found:
        write_json(folder / "index.json", [asdict(scene) for scene in found])
    return found


def read_scenes(index: Path) -> list[Scene]:
    """What `scenes_of` kept; nothing where there is no such file."""
    if not index.is_file():
        return []
    return [
        Scene(
            **{
                **tree,
                "pictures": tuple(Picture(**p) for p in tree["pictures"]),
                "fingerprint": tuple(tree["fingerprint"]),
            }
        )
        for tree in read_json(index)
    ]


def _seed(study: Study, pair: Pair) -> int | None:
    """The seed with the most methods, the first of those."""
    counts: dict[int, int] = {}
    for column in study.with_role(*COMPARED):
        for seed in seeds_of(study, column.name, pair):
            counts[seed] = counts.get(seed, 0) + 1
    return max(sorted(counts), key=counts.__getitem__) if counts else None


def _mark(study: Study, pair: Pair, seed: int | None, images: int) -> tuple[object, ...]:
    if seed is None:
        return ()
    results = [study.targets.get((column.name, pair, seed)) for column in study.with_role(*COMPARED)]
    marks = [f"{result.id} {result.last.get('score')}" for result in results if result]
    judges = [r.id for r in estimators(study) if (r.pair, r.seed) == (pair, seed)]
    return images, *marks, *judges


@dataclass(frozen=True)
class _Album:
    """Where one image's panels go."""

    folder: Path
    pair: Pair
    seed: int
    image: str
    mark: tuple[object, ...]

    def scene(self, group: str, note: str, panels: Iterable[Panel]) -> Scene:
        """Write panels that belong side by side."""
        pictures = []
        for i, panel in enumerate(panels):
            file = write_picture(self.folder, f"{group}-{'-'.join(self.pair)}-{self.image}-{i}", panel)
            pictures.append(Picture(file, panel.caption, panel.alt))
        return Scene(group, *self.pair, self.seed, self.image, note, tuple(pictures), self.mark)


def write_picture(folder: Path, stem: str, panel: Panel) -> str:
    """Write a panel as small JPEG or as PNG of few colours; returns the file's name."""
    folder.mkdir(parents=True, exist_ok=True)
    picture, photograph = Image.fromarray(panel.pixels), panel.photograph
    if picture.width > LARGEST:
        size = (LARGEST, round(picture.height * LARGEST / picture.width))
        picture = picture.resize(size, Image.Resampling.BOX if photograph else Image.Resampling.NEAREST)
    name = f"{stem}.{'jpg' if photograph else 'png'}"
    if photograph:
        write_atomically(folder / name, lambda path: picture.save(path, format="JPEG", quality=82))
    else:
        few = picture.quantize(256, dither=Image.Dither.NONE)
        write_atomically(folder / name, lambda path: few.save(path, format="PNG", optimize=True))
    return name


def _draw(study: Study, pair: Pair, seed: int, images: int, mark: tuple[object, ...], folder: Path) -> Iterator[Scene]:
    columns = [c for c in study.with_role(*COMPARED) if (c.name, pair, seed) in study.targets]
    jobs = {c.name: study.jobs[study.targets[c.name, pair, seed].id] for c in columns}
    first = next(iter(jobs.values()))
    dataset = target_images(study, first)
    models = {name: target_model(job, dataset.label_set) for name, job in jobs.items()}
    judges = _judges(study, pair, seed, dataset.label_set)
    trained = estimators_of(study, pair, seed)
    for index in spread(images, len(dataset)):
        sample = dataset[index]
        album = _Album(folder, pair, seed, sample.name.replace("/", "_"), mark)
        view = _View(sample, dataset.label_set, first.config.evaluation)
        yield album.scene("segmentation", "", view.predictions(judges, models, titles(columns)))
        if judges:
            yield album.scene("transferability", "", view.maps(judges, trained))
            yield album.scene("regions", "", view.partitions(judges))
        looked_at = [c for c in columns if c.stage in ("full", "tmt")]
        chosen = view.chosen_class()
        if chosen is not None and looked_at:
            note = f"the query of each model that fits the class {dataset.label_set.names[chosen]} best"
            yield album.scene("attention", note, view.attention(chosen, looked_at, models, titles(columns)))


def _judges(study: Study, pair: Pair, seed: int, label_set: LabelSet) -> dict[str, TMTForSemanticSegmentation]:
    """The source model by the regions that it judges; for want of a discriminator of their own, with the other's."""
    trained = estimators_of(study, pair, seed)
    found = {regions: judge(study, job, label_set) for regions, job in trained.items()}
    for regions in ("superpixel", "grid") if trained else ():
        if regions not in found:
            found[regions] = judge(study, next(iter(trained.values())), label_set, regions)
    return found


@dataclass(frozen=True)
class _View:
    """One validation image."""

    sample: Sample
    label_set: LabelSet
    inference: InferenceConfig

    def pixels(self, model: TMTForSemanticSegmentation) -> Tensor:
        """(1, C, H, W), as the model wants them."""
        return normalise(self.sample.image, model.scaling)[None]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.sample.label.shape
        return height, width

    def photograph(self) -> Panel:
        return Panel("image", self.sample.image, True, f"validation image {self.sample.name}")

    def predict(self, model: TMTForSemanticSegmentation) -> np.ndarray:
        """(H, W) uint8 train ids."""
        return (
            segment(model, self.pixels(model).to(model.device), self.inference).prediction.to(torch.uint8).cpu().numpy()
        )

    def _labels(self, caption: str, labels: np.ndarray) -> Panel:
        shown = np.where(self.sample.label == IGNORE, IGNORE, labels)
        alt = f"{caption}: classes of the pixels in their colours"
        return Panel(caption, colourise(shown, self.label_set), alt=alt)

    def predictions(
        self, judges: dict[str, TMTForSemanticSegmentation], models: dict[str, TMTForSemanticSegmentation],
        names: dict[str, str],
    ) -> Iterator[Panel]:  # fmt: skip
        """Fig. 4: image, ground truth, the source model and every method, with the share of pixels that are right."""
        yield self.photograph()
        yield self._labels("ground truth", self.sample.label)
        shown = {"source only": next(iter(judges.values()))} if judges else {}
        for name, model in {**shown, **{names[key]: model for key, model in models.items()}}.items():
            prediction = self.predict(model)
            yield self._labels(f"{name}, {100 * self.right(prediction):.1f}\u00a0% right", prediction)

    def right(self, prediction: np.ndarray) -> float:
        """Share of the labelled pixels that are right."""
        labelled = self.sample.label != IGNORE
        return float((prediction == self.sample.label)[labelled].mean()) if labelled.any() else 0.0

    def maps(self, judges: dict[str, TMTForSemanticSegmentation], own: Mapping[str, object]) -> Iterator[Panel]:
        """Fig. 5: T of superpixels and patches before fine-tuning, and where the source model is wrong."""
        yield self.photograph()
        prediction = self.predict(next(iter(judges.values())))
        wrong = (prediction != self.sample.label) & (self.sample.label != IGNORE)
        painted = marked(self.sample.image, wrong, RED)
        yield Panel("source model wrong (red)", painted, True, "where the source model is wrong")
        for regions, model in sorted(judges.items(), reverse=True):
            transfer, _ = _judged(model, self.pixels(model), self.size)
            low, high = float(transfer.min()), float(transfer.max())
            name = {"superpixel": "superpixels", "grid": "patches"}[regions]
            other = "" if regions in own else ", discriminator of the other regions"
            scaled = (transfer - low) / max(high - low, 1e-6)
            caption = f"T, {name}{other}: {low:.2f} (blue) to {high:.2f} (red)"
            yield Panel(caption, heat(scaled), alt=f"transferability of {name}, between {low:.2f} and {high:.2f}")

    def partitions(self, judges: dict[str, TMTForSemanticSegmentation]) -> Iterator[Panel]:
        """Fig. 1d: the borders of superpixels and of equal patches."""
        for regions, model in sorted(judges.items(), reverse=True):
            _, labels = _judged(model, self.pixels(model), self.size)
            name = {"superpixel": "superpixels", "grid": "equal patches"}[regions]
            yield Panel(name, outline(self.sample.image, labels), True, f"borders of {name} over the image")
            ids = labels[self.sample.label != IGNORE], self.sample.label[self.sample.label != IGNORE]
            yield Panel(
                f"{name}: best segmentation they allow, {100 * _purity(*ids):.1f}\u00a0% right",
                colourise(_majority(labels, self.sample.label, len(self.label_set)), self.label_set),
                alt=f"each of the {name} in the colour of its most frequent class",
            )

    def chosen_class(self) -> int | None:
        """The first of `SHOWN_CLASSES` that covers enough of the image, else the largest class."""
        counts = np.bincount(self.sample.label[self.sample.label != IGNORE], minlength=len(self.label_set))
        if not counts.any():
            return None
        ids = [self.label_set.names.index(name) for name in SHOWN_CLASSES if name in self.label_set.names]
        large = [i for i in ids if counts[i] >= LEAST_SHARE * self.sample.label.size]
        return large[0] if large else int(counts.argmax())

    def attention(
        self, chosen: int, columns: Sequence[Variant], models: dict[str, TMTForSemanticSegmentation],
        names: dict[str, str],
    ) -> Iterator[Panel]:  # fmt: skip
        """Figs. 1b, 1c and 6: where the query may attend, where it does, and its mask."""
        yield self.photograph()
        for column in columns:
            model = models[column.name]
            look = attend(model, self.pixels(model), self.sample.label == chosen, chosen)
            tint = TMT_TINT if column.uses_transferability else PLAIN_TINT
            name = names[column.name]
            layer = f"layer {look.layer + 1}"
            yield Panel(
                f"{name}: may attend ({100 * look.allowed.mean():.0f}\u00a0%)",
                tinted(self.sample.image, enlarged(look.allowed, self.size), tint), True,
                f"{name}: attention mask of the query, {layer}",
            )  # fmt: skip
            weights = enlarged(look.weights / max(float(look.weights.max()), 1e-12), self.size)
            alt = f"{name}: attention map of the query, {layer}"
            yield Panel(f"{name}: attends", glowing(self.sample.image, weights), True, alt)
            mask = tinted(self.sample.image, enlarged(look.mask, self.size), tint)
            alt = f"{name}: mask that the query predicts"
            yield Panel(f"{name}: mask, IoU {100 * look.iou:.0f}\u00a0%", mask, True, alt)


@torch.no_grad()
def _judged(model: TMTForSemanticSegmentation, pixels: Tensor, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """T (H, W) float64 and each pixel's region (H, W) of an image."""
    features, labels, probabilities, _ = model.region_evidence(pixels.to(model.device))
    judged = torch.sigmoid(-model.estimator.judge(features, probabilities).double()).flatten(1)
    transfer = judged.gather(1, labels.flatten(1)).view(labels.shape)
    return enlarge(transfer, size)[0].cpu().numpy(), enlarge(labels, size)[0].cpu().numpy()


def _majority(regions: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    """(H, W) uint8: each region's most frequent class among its labelled pixels; `IGNORE` where it has none."""
    known = label != IGNORE
    count = regions.max() + 1
    votes = np.bincount(regions[known] * classes + label[known], minlength=count * classes).reshape(count, classes)
    winner = np.where(votes.any(1), votes.argmax(1), IGNORE).astype(np.uint8)
    return winner[regions]


def _purity(regions: np.ndarray, labels: np.ndarray) -> float:
    """Share of labelled pixels (n,) that have their region's most frequent class."""
    if not len(labels):
        return 0.0
    pairs, counts = np.unique(np.stack([regions, labels]), axis=1, return_counts=True)
    most = np.zeros(int(regions.max()) + 1, dtype=np.int64)
    np.maximum.at(most, pairs[0].astype(np.int64), counts)
    return float(most.sum() / len(labels))
