"""The overlay: boxes, names and the strip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.fake_camera import BLUE, GREEN, GREY, RED, scene
from PIL import Image

from bot_deploy.demos.overlay import (
    BACKGROUND,
    PROBLEM_COLOUR,
    STRANGER_COLOUR,
    STRIP_WIDTH,
    View,
    draw,
    label,
    letter_size,
    name_colour,
    place_label,
)
from bot_deploy.demos.recognition import TrackedPerson
from bot_deploy.matching.identify import Candidate
from bot_deploy.video.tracks import Xyxy

BOX = (100.0, 60.0, 150.0, 210.0)


@pytest.fixture
def ann(tmp_path: Path) -> Candidate:
    path = tmp_path / "ann.png"
    Image.fromarray(np.full((128, 64, 3), GREEN, np.uint8)).save(path)
    return Candidate("Ann", 0.8123, path)


def test_a_name_of_two_lines_is_drawn_on_one(ann: Candidate) -> None:
    draw([View(scene(), [TrackedPerson(1, BOX, "match", ann._replace(name="Ann\nB."))])], [])


def test_labels(ann: Candidate) -> None:
    assert label(TrackedPerson(7, BOX, "match", ann)) == "Ann  0.81"
    assert label(TrackedPerson(7, BOX, "uncertain", ann)) == "Ann?  0.81"
    assert label(TrackedPerson(7, BOX, "no match", ann)) == "unknown  0.81"
    assert label(TrackedPerson(7, BOX, "no match", None)) == "unknown"


def test_only_boxes_are_drawn_on_the_frame_and_the_strip_is_beside_it(ann: Candidate) -> None:
    pixels = scene((RED, (100, 60, 150, 210)), (BLUE, (200, 60, 250, 210)))
    before = pixels.copy()
    picture = draw([View(pixels, [TrackedPerson(1, BOX, "match", ann)])], [ann])
    np.testing.assert_array_equal(pixels, before)
    assert picture.shape == (240, 320 + STRIP_WIDTH, 3)
    assert picture.dtype == np.uint8
    for x, y in ((100, 120), (150, 120), (120, 210)):
        assert tuple(picture[y, x]) == name_colour("Ann")
    inside = np.s_[64:206, 104:146]
    np.testing.assert_array_equal(picture[inside], pixels[inside])
    np.testing.assert_array_equal(picture[62:, 160:320], pixels[62:, 160:])  # below the label
    assert ((picture[:, 320:] == GREEN).all(2)).sum() > 0.9 * 66 * 132  # the picture of Ann


def test_boxes_of_strangers_are_grey(ann: Candidate) -> None:
    for decision in ("uncertain", "no match"):
        picture = draw([View(scene(), [TrackedPerson(1, BOX, decision, ann)])], [])
        assert tuple(picture[120, 100]) == STRANGER_COLOUR
    assert (picture[:, 320:] == BACKGROUND).all()


def test_the_selected_box_is_thicker(ann: Candidate) -> None:
    persons = [TrackedPerson(1, BOX, "no match", ann)]
    thin, thick = (draw([View(scene(), persons, selected=selected)], []) for selected in (None, 1))
    assert tuple(thin[120, 104]) == (GREY,) * 3
    assert tuple(thick[120, 104]) == STRANGER_COLOUR


def test_letters_are_as_large_as_frame_and_person_allow() -> None:
    assert letter_size(400, 540) == 15
    assert letter_size(400, 1080) == 30
    assert letter_size(90, 1080) == 15
    assert letter_size(30, 2160) == 9


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((100, 50, 120, 90), (100, 40, 160, 50)),  # above
        ((100, 5, 120, 45), (100, 45, 160, 55)),  # no room above
        ((290, 50, 310, 90), (260, 40, 320, 50)),  # moved into the frame
        ((100, 62, 120, 102), (100, 102, 160, 112)),  # another person stands above
        ((200, 130, 220, 170), (220, 130, 280, 140)),  # people above and below
    ],
)
def test_a_label_hides_nobody_where_there_is_room(box: Xyxy, expected: Xyxy) -> None:
    others = [(95, 55, 115, 60), (190, 60, 230, 125), (195, 172, 230, 230)]
    assert place_label((10, 60), box, [*others, box], (240, 320)) == expected


def test_problem_and_status_are_lines_on_the_picture() -> None:
    picture = draw([View(scene(), problem="the camera is away")], [], status="all well")
    assert tuple(picture[1, 1]) == PROBLEM_COLOUR
    assert tuple(picture[238, 1]) == BACKGROUND
    assert (picture[1:25, :200] > 200).all(2).any()  # letters


def test_a_label_stays_inside_the_frame(ann: Candidate) -> None:
    """A box in the upper right corner: its label is moved, not cut."""
    picture = draw([View(scene(), [TrackedPerson(1, (300.0, 0.0, 319.0, 100.0), "match", ann)])], [])
    lettering = (picture[:, :300] == name_colour("Ann")).all(2)  # beside the box
    assert lettering.any(0).sum() > 30  # pixels of its width
    assert lettering.any(1).sum() == 14  # letters of 9 pixels
    assert (picture[:, 320:] == BACKGROUND).all()


def test_the_strip_shows_as_many_people_as_fit_and_grey_for_a_lost_picture(ann: Candidate, tmp_path: Path) -> None:
    missing = Candidate("Bob", 0.5, tmp_path / "gone.png")
    picture = draw([View(np.zeros((400, 300, 3), np.uint8))], [ann, missing, ann, ann])
    green = (picture[:, 300:] == GREEN).all(2).any(1)
    assert green[:170].any()
    assert not green[170:].any()
    assert (picture[180:320, 300:] == 60).all(2).any()


def test_a_name_always_has_the_same_colour() -> None:
    assert name_colour("person-1") != name_colour("person-2")
    assert name_colour("Ann") == name_colour("Ann")
    assert name_colour("张伟") != BACKGROUND
