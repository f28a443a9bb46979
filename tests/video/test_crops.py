"""Crops: cutting boxes out of a frame, and which of them show a whole person."""

from __future__ import annotations

from helpers.fake_camera import GREEN, ORANGE, Box, scene

from bot_deploy.video.crops import crop_box, shows_whole_person


def walker(x: float, y: float = 60, height: float = 150) -> Box:
    return x, y, x + 50, y + height


def test_unoccluded_boxes_are_not_cut_off_and_not_behind_another() -> None:
    frame = (240, 320)
    assert shows_whole_person(walker(100), [], frame)
    assert not shows_whole_person(walker(0), [], frame)
    assert not shows_whole_person(walker(100, y=100, height=140), [], frame)
    nearer, farther = walker(120, y=70), walker(120, y=50)
    assert not shows_whole_person(walker(100), [nearer], frame)
    assert shows_whole_person(walker(100), [farther], frame)
    assert shows_whole_person(walker(100), [walker(140, y=70)], frame)  # a fifth of it is hidden
    assert not shows_whole_person((100, 60, 210, 210), [], frame)  # too wide for a whole person


def test_crops_stay_inside_the_frame() -> None:
    pixels = scene((GREEN, walker(100)), (ORANGE, walker(270)))
    assert (crop_box(pixels, walker(100)) == GREEN).all()
    assert crop_box(pixels, (300.4, 200.0, 400.0, 300.0)).shape == (40, 20, 3)
    assert crop_box(pixels, (400.0, 300.0, 400.0, 300.0)).shape == (1, 1, 3)
