"""The files that a person who labels works with: masks, overlays, polygons, a list and a page."""

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image
from scipy.ndimage import find_objects
from tqdm import tqdm

from tmt.data import IGNORE, LabelSet
from tmt.labelling.images import ToLabel
from tmt.labelling.picking import Pick, Picking, Picks
from tmt.labelling.place import LIST, Place
from tmt.labelling.polygons import polygon
from tmt.report.html import facts, page, section, text
from tmt.runtime.files import write_atomically, write_json, write_text
from tmt.visualize.drawing import outline
from tmt.visualize.panels import save

HEADER = ("rank", "image", "region", "x", "y", "width", "height", "pixels", "predicted", "score")
WIDEST = 1024
"""Pixels of an overlay's longer side."""
LEAST = 640
"""Pixels of an overlay's width, below which small images are enlarged."""


@dataclass(frozen=True)
class Outlined:
    """A picked region and where it is in its image."""

    pick: Pick
    box: tuple[int, int, int, int]
    """x, y, width, height."""
    polygon: list[int]


@dataclass(frozen=True)
class Writer:
    """Writes what was picked."""

    place: Place
    picking: Picking
    label_set: LabelSet

    def write(self, picks: Picks, revealing: Callable[[Picks], None] | None) -> dict[str, str]:
        """Write all, in the place of an earlier choice; what was done, by name. `revealing` leaves the labels that were
        picked, where somebody has them."""
        self.place.clear()
        outlined, sizes = {}, {}
        with tqdm(picks.of.items(), "write", unit="image") as bar:
            for index, own in bar:
                outlined[index], sizes[index] = self._write_image(self.picking.images[index], own)
        if revealing is not None:
            revealing(picks)
        summary = self._summary(picks)
        write_json(self.place.out / "picks.json", self._coco(outlined, sizes))
        write_text(self.place.out / "index.html", self._page(picks, summary))
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows([HEADER, *sorted(self._rows(outlined))])
        write_text(self.place.out / LIST, lines.getvalue())
        return summary

    def _write_image(self, image: ToLabel, picks: list[Pick]) -> tuple[list[Outlined], tuple[int, int]]:
        """Write an image's mask and overlay; its regions, and its height and width."""
        pixels = image.read()
        regions = self.picking.regions(pixels)
        mask = np.isin(regions, [pick.region for pick in picks])
        save(Image.fromarray(np.where(mask, 0, IGNORE).astype(np.uint8)), self.place.mask(image.name))
        path = self.place.overlay(image.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = Image.fromarray(overlay(pixels, regions, mask))
        write_atomically(path, partial(drawn.save, format="JPEG", quality=85))
        boxes = find_objects(regions + 1)
        return [_outlined(pick, regions, boxes[pick.region]) for pick in picks], (mask.shape[0], mask.shape[1])

    def _summary(self, picks: Picks) -> dict[str, str]:
        config, images = self.picking.config, self.picking.images
        noun = "whole images" if config.picks_images else f"regions in {len(picks.of)} images"
        return {
            "picked": f"{picks.count} {noun} of {len(images)}",
            "pixels": f"{picks.pixels} of {picks.all_pixels}, {picks.pixels / picks.all_pixels:.2%}",
            "score": f"images, by {config.region_score}" if config.picks_images else config.score,
            "budget": config.budget,
            "model": config.model,
        }

    def _rows(self, outlined: dict[int, list[Outlined]]) -> Iterator[tuple[object, ...]]:
        for index, regions in outlined.items():
            for one in regions:
                pick, name = one.pick, self.picking.images[index].name
                predicted, score = self.label_set.names[pick.prediction], f"{pick.score:.6g}"
                yield pick.rank, name, pick.region, *one.box, pick.pixels, predicted, score

    def _coco(self, outlined: dict[int, list[Outlined]], sizes: dict[int, tuple[int, int]]) -> dict[str, Any]:
        """In the form of COCO's instances; identities begin with 1, that of a region is its rank."""
        images, regions = [], []
        for index, (height, width) in sizes.items():
            path = Path(os.path.relpath(self.picking.images[index].path, self.picking.config.data))
            images.append({"id": index + 1, "file_name": path.as_posix(), "width": width, "height": height})
            regions += [
                {
                    "id": one.pick.rank,
                    "image_id": index + 1,
                    "category_id": one.pick.prediction + 1,
                    "segmentation": [one.polygon],
                    "area": one.pick.pixels,
                    "bbox": list(one.box),
                    "iscrowd": 0,
                    "score": one.pick.score,
                }
                for one in outlined[index]
            ]
        return {
            "info": {"description": "regions to label, best first; their categories are a model's predictions"},
            "images": images,
            "annotations": sorted(regions, key=lambda region: region["id"]),
            "categories": [{"id": i, "name": name} for i, name in enumerate(self.label_set.names, start=1)],
        }

    def _page(self, picks: Picks, summary: dict[str, str]) -> str:
        """All images with picks, those with the most pixels to label first."""
        most = sorted(picks.of, key=lambda index: -sum(pick.pixels for pick in picks.of[index]))
        figures = "\n".join(self._figure(self.picking.images[index].name, picks.of[index]) for index in most)
        classes: Counter[str] = Counter()
        for own in picks.of.values():
            for pick in own:
                classes[self.label_set.names[pick.prediction]] += pick.pixels
        shares = {name: f"{pixels / picks.pixels:.1%} of the picked pixels" for name, pixels in classes.most_common()}
        head = (
            f"{facts(summary)}\n<p>Label what keeps its colours; a click opens the picture. The folder masks has the "
            "same as PNGs, picks.json as COCO polygons. In the label maps everything else stays 255.</p>"
        )
        return page(
            "What to label",
            head,
            [
                section("images", "Images", f'<div class="panels">\n{figures}\n</div>'),
                section("classes", "Classes predicted where labels are asked for", facts(shares)),
            ],
        )

    def _figure(self, name: str, picks: list[Pick]) -> str:
        address = text(quote(self.place.overlay(name).relative_to(self.place.out).as_posix()))
        what = text(f"{name}: {len(picks)} to label, the best of rank {picks[0].rank}")
        return (
            f'<figure><a href="{address}"><img loading="lazy" src="{address}" alt="{what}"></a>'
            f"<figcaption>{what}</figcaption></figure>"
        )


def _outlined(pick: Pick, regions: np.ndarray, box: tuple[slice, slice]) -> Outlined:
    rows, columns = box
    x, y = int(columns.start), int(rows.start)
    outline_of = polygon(regions[box] == pick.region, x, y)
    return Outlined(pick, (x, y, int(columns.stop) - x, int(rows.stop) - y), outline_of)


def overlay(image: np.ndarray, regions: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What is to be labelled in its own colours with a border around each region, the rest pale.

    image (H, W, 3) uint8, regions (H, W), mask (H, W) bool -> (h, w, 3) uint8, its longer side at most `WIDEST`.
    """
    height, width = mask.shape
    factor = min(max(1, LEAST // width), WIDEST / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    numbers = Image.fromarray(np.where(mask, regions + 1, 0).astype(np.int32))
    shown = np.asarray(numbers.resize(size, Image.Resampling.NEAREST))
    return outline(np.where(shown[..., None] > 0, small, small // 3 + 150).astype(np.uint8), shown)
