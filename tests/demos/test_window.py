"""The window: its keys, and the real thing under Xvfb with a hand that clicks and types."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_camera import BLUE, RED
from PIL import Image, ImageGrab

from bot_deploy.demos.overlay import STRANGER, STRIP, colour_of
from bot_deploy.demos.window import Keyboard, Window, Wish
from bot_deploy.errors import RunError

RED_BOX, BLUE_BOX = (40, 60, 90, 200), (200, 60, 250, 200)  # as helpers/windowed_demo.py draws them
WIDTH, HEIGHT = 320 + STRIP, 240


def press(keyboard: Keyboard, *keys: str | int) -> list[Wish]:
    wishes = [keyboard.press(ord(key) if isinstance(key, str) else key) for key in keys]
    return [wish for wish in wishes if wish]


def test_keys_are_commands() -> None:
    assert press(Keyboard(), "x", "s", " ", "q") == [Wish("snapshot"), Wish("pause"), Wish("quit")]


def test_a_name_is_typed_after_e() -> None:
    keyboard = Keyboard()
    assert press(keyboard, "e", *"Ann qs") == []  # no key is a command now
    assert keyboard.typed == "Ann qs"
    assert press(keyboard, 8, 127, 8, 13, "q") == [Wish("enrol", "Ann"), Wish("quit")]
    assert press(keyboard, "e", 10) == [Wish("enrol", "")]


def test_escape_leaves_the_name_and_then_the_program() -> None:
    keyboard = Keyboard()
    assert press(keyboard, "e", "A", 27) == []
    assert keyboard.typed is None
    assert press(keyboard, 27) == [Wish("quit")]


def test_without_a_display_the_message_names_headless(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if sys.platform != "linux":
        pytest.skip("only on Linux is there no display where no variable names one")
    with pytest.raises(RunError, match="--headless"):
        Window("bot demo")


@pytest.fixture
def display() -> Iterator[str]:
    if not shutil.which("Xvfb") or not shutil.which("xdotool"):
        pytest.skip("needs Xvfb and xdotool (apt-get install xvfb xdotool)")
    import cv2

    if "GUI:                           NONE" in cv2.getBuildInformation():
        pytest.skip("this OpenCV was built without windows")
    reading, writing = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1024x768x24"],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    with os.fdopen(reading) as pipe:
        number = pipe.readline().strip()
    yield f":{number}"
    server.terminate()
    server.wait()


def until(happened: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_the_real_window(display: str, tmp_path: Path) -> None:
    def hand(*words: str | int) -> str:
        done = subprocess.run(
            ["xdotool", *map(str, words)],
            env={**os.environ, "DISPLAY": display},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip()

    def screenshot() -> np.ndarray:
        x, y = (int(line.split("=")[1]) for line in hand("getwindowgeometry", "--shell", window).split()[1:3])
        whole = ImageGrab.grab(xdisplay=display).convert("RGB")
        return np.asarray(whole.crop((x, y, x + WIDTH, y + HEIGHT)))

    def outlined(picture: np.ndarray, box: tuple[int, int, int, int], colour: tuple[int, int, int]) -> bool:
        left, top, right, bottom = box
        sides = [picture[top + 30 : bottom, left], picture[top + 30 : bottom, right], picture[bottom, left:right]]
        return all((np.abs(side.astype(int) - colour).max(1) <= 2).mean() > 0.9 for side in sides)

    log = (tmp_path / "log").open("w")
    demo = subprocess.Popen(
        [sys.executable, "-m", "helpers.windowed_demo", tmp_path],
        env={**os.environ, "DISPLAY": display},
        stdout=log,
        stderr=log,
    )
    try:
        until(lambda: demo.poll() is not None or hand("search", "--name", "^bot demo$"))
        window = hand("search", "--name", "^bot demo$").split()[-1]
        until(lambda: outlined(screenshot(), RED_BOX, STRANGER))
        before = screenshot()
        assert outlined(before, BLUE_BOX, STRANGER)
        assert tuple(before[130, 65]) == RED
        assert tuple(before[130, 225]) == BLUE

        hand("mousemove", "--window", window, 65, 130, "click", 1)
        time.sleep(0.5)
        hand("windowfocus", window, "key", "e")
        time.sleep(0.3)
        hand("type", "--delay", "60", "ann")
        time.sleep(0.3)
        hand("key", "Return")
        until((tmp_path / "events.jsonl").read_text)
        until(lambda: outlined(screenshot(), RED_BOX, colour_of("ann")))
        after = screenshot()
        assert outlined(after, BLUE_BOX, STRANGER)
        assert (after[:150, 320:] == RED).all(2).any(), "her picture stands in the strip"
        assert not (before[:150, 320:] == RED).all(2).any()

        hand("key", "s")
        until(lambda: list(tmp_path.glob("*.png")))
        hand("key", "space")
        time.sleep(0.5)
        hand("key", "q")
        assert demo.wait(30) == 0
    finally:
        demo.kill()
        demo.wait()
        log.close()
    (event,) = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    assert (event["event"], event["name"], event["box"]) == ("enrolled", "ann", list(RED_BOX))
    assert "the camera is away" in (tmp_path / "log").read_text()
    (snapshot,) = tmp_path.glob("*.png")
    with Image.open(snapshot) as saved:
        assert saved.size == (WIDTH, HEIGHT)
    assert len(list((tmp_path / "people.gallery" / "crops" / "ann").iterdir())) == 1
