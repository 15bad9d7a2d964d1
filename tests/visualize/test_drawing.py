"""Drawings over images, pixel by pixel."""

import numpy as np

from tmt.data import CITYSCAPES19, IGNORE
from tmt.visualize import drawing
from tmt.visualize.contact_sheet import CAPTION, GAP, contact_sheet
from tmt.visualize.panels import Panel, compose

IMAGE = np.array([[[10, 20, 30], [200, 100, 50]]], np.uint8)
RED = (214, 69, 61)


def test_overlay_mixes_the_classes_colours_and_leaves_what_is_ignored() -> None:
    label = np.array([[0, IGNORE]], np.uint8)  # road: 128, 64, 128
    drawn = drawing.overlay(IMAGE, label, CITYSCAPES19, 0.25)
    assert drawn.dtype == np.uint8 and drawn.tolist() == [[[40, 31, 54], [200, 100, 50]]]  # 39.5, 31.0, 54.5


def test_marks_and_borders() -> None:
    where = np.array([[True, False]])
    assert drawing.marked(IMAGE, where, RED).tolist() == [[[*RED], [216, 183, 166]]]
    assert drawing.outline(IMAGE, np.array([[3, 3]])).tolist() == IMAGE.tolist()
    assert drawing.outline(IMAGE, np.array([[3, 4]])).tolist() == [[[10, 20, 30], [*drawing.BORDER_COLOUR]]]


def test_heat_goes_from_blue_to_red() -> None:
    low, high = drawing.heat(np.array([[0.0, 1.0]]))[0].tolist()
    assert low == [33, 60, 140] and high == [165, 30, 40]


def test_a_contact_sheet_holds_its_pictures() -> None:
    whole = np.asarray(contact_sheet([("one", [IMAGE, IMAGE]), ("two", [IMAGE])], 4, 2))
    assert whole.shape == (GAP + 2 * (CAPTION + 2 + GAP), GAP + 2 * (4 + GAP), 3)
    assert whole[GAP + CAPTION, GAP].tolist() == [10, 20, 30] and whole[GAP + CAPTION, GAP + 3].tolist() == [
        200,
        100,
        50,
    ]


def test_photographs_are_smoothed_and_maps_are_not() -> None:
    """Enlarged, a photograph gets colours between its two; a map has only these, and the paper."""

    def colours(photograph: bool) -> int:
        sheet = compose([Panel("x", np.repeat(IMAGE, 2, 0), photograph)], 1, CITYSCAPES19)
        return len(np.unique(np.asarray(sheet)[100:200, 50:450].reshape(-1, 3), axis=0))

    assert colours(False) == 2 < colours(True)
