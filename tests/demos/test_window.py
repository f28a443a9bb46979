"""The window: its keys, and a real window under Xvfb, with clicks and keys by xdotool."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from helpers.fake_camera import BLUE, RED
from PIL import Image, ImageGrab

from bot_deploy.demos.choosing import box_at
from bot_deploy.demos.overlay import STRANGER_COLOUR, STRIP_WIDTH, name_colour
from bot_deploy.demos.window import Command, Keyboard, Window
from bot_deploy.errors import RunError

RED_BOX, BLUE_BOX = (40, 60, 90, 200), (200, 60, 250, 200)  # as helpers/windowed_demo.py draws them
WIDTH, HEIGHT = 320 + STRIP_WIDTH, 240


def press(keyboard: Keyboard, *keys: str | int) -> list[Command]:
    commands = [keyboard.press(ord(key) if isinstance(key, str) else key) for key in keys]
    return [command for command in commands if command]


def test_keys_are_commands() -> None:
    assert press(Keyboard(), "x", "s", " ", "q") == [Command("snapshot"), Command("pause"), Command("quit")]


def test_a_name_is_typed_after_e() -> None:
    keyboard = Keyboard()
    assert press(keyboard, "e", *"Ann qs") == []  # no key is a command now
    assert keyboard.typed_name == "Ann qs"
    assert press(keyboard, 8, 127, 8, 13, "q") == [Command("enrol", "Ann"), Command("quit")]
    assert press(keyboard, "e", 10) == [Command("enrol", "")]


def test_escape_cancels_the_name_and_then_quits() -> None:
    keyboard = Keyboard()
    assert press(keyboard, "e", "A", 27) == []
    assert keyboard.typed_name is None
    assert press(keyboard, 27) == [Command("quit")]


def test_without_a_display_the_error_names_the_parameter_headless(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if sys.platform != "linux":
        pytest.skip("only on Linux is there no display where no variable names one")
    with pytest.raises(RunError, match="no window can be opened") as caught:
        Window("bot demo")
    assert caught.value.parameter == "headless"


def test_the_smallest_box_around_a_click_is_chosen() -> None:
    boxes = [(0, 0, 100, 200), (40, 50, 80, 150), (300, 0, 350, 90)]
    assert [box_at(boxes, *point) for point in ((50, 60), (10, 10), (300, 90), (200, 10))] == [1, 0, 2, None]


@pytest.mark.parametrize(("action", "answer"), [(("click", 130), "1"), (("key", "Escape"), "None")])
def test_a_person_is_clicked_in_a_window(display: str, action: tuple[str, Any], answer: str) -> None:
    code = (
        "import numpy as np; from bot_deploy.demos.choosing import choose_person; "
        "print(choose_person(np.zeros((240, 320, 3), np.uint8), [(10, 20, 60, 200), (100, 20, 160, 200)]))"
    )
    environment = {**os.environ, "DISPLAY": display}

    def xdotool(*arguments: str | int) -> str:
        command = ["xdotool", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.strip()

    program = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        found = wait_until(lambda: xdotool("search", "--name", "^bot: click the person$") or program.poll() is not None)
        assert isinstance(found, str)
        window = found.split()[-1]
        kind, place = action
        for _ in range(20):  # until the window is ready
            if kind == "click":
                xdotool("mousemove", "--window", window, 80, 100, "click", 1)  # beside the people: nothing is chosen
                xdotool("mousemove", "--window", window, place, 100, "click", 1)
            else:
                xdotool("windowfocus", window, "key", place)
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(1)
                break
        assert program.communicate(timeout=30)[0].strip() == answer
    finally:
        program.kill()
        program.communicate()


@pytest.fixture
def display() -> Iterator[str]:
    if not shutil.which("Xvfb") or not shutil.which("xdotool"):
        pytest.skip("needs Xvfb and xdotool (apt-get install xvfb xdotool)")
    import cv2

    if "GUI:                           NONE" in cv2.getBuildInformation():
        pytest.skip("this OpenCV was built without windows")
    reading, writing = os.pipe()
    # Without -noreset it starts anew when its last client goes, as xdotool does, and refuses others meanwhile.
    server = subprocess.Popen(
        ["Xvfb", "-noreset", "-displayfd", str(writing), "-screen", "0", "1024x768x24"],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    with os.fdopen(reading) as pipe:
        number = pipe.readline().strip()
    yield f":{number}"
    server.terminate()
    server.wait()


T = TypeVar("T")


def wait_until(condition: Callable[[], T], seconds: float = 60) -> T:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "timed out"
        time.sleep(0.1)
    return value


def test_the_real_window(display: str, tmp_path: Path) -> None:
    def xdotool(*arguments: str | int) -> str:
        result = subprocess.run(
            ["xdotool", *map(str, arguments)],
            env={**os.environ, "DISPLAY": display},
            capture_output=True,
            text=True,
            check=False,
        )
        return result.stdout.strip()

    def screenshot() -> np.ndarray:
        x, y = (int(line.split("=")[1]) for line in xdotool("getwindowgeometry", "--shell", window).split()[1:3])
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
        found = wait_until(lambda: xdotool("search", "--name", "^bot demo$") or demo.poll() is not None)
        assert isinstance(found, str), (tmp_path / "log").read_text()
        # Not searched again: xdotool finds nothing when a window closes during its search.
        window = found.split()[-1]
        wait_until(lambda: outlined(screenshot(), RED_BOX, STRANGER_COLOUR))
        before = screenshot()
        assert outlined(before, BLUE_BOX, STRANGER_COLOUR)
        assert tuple(before[130, 65]) == RED
        assert tuple(before[130, 225]) == BLUE

        xdotool("mousemove", "--window", window, 65, 130, "click", 1)
        time.sleep(0.5)
        xdotool("windowfocus", window, "key", "e")
        time.sleep(0.3)
        xdotool("type", "--delay", "60", "ann")
        time.sleep(0.3)
        xdotool("key", "Return")
        wait_until((tmp_path / "events.jsonl").read_text)
        wait_until(lambda: outlined(screenshot(), RED_BOX, name_colour("ann")))
        after = screenshot()
        assert outlined(after, BLUE_BOX, STRANGER_COLOUR)
        assert (after[:150, 320:] == RED).all(2).any(), "the strip shows her crop"
        assert not (before[:150, 320:] == RED).all(2).any()

        xdotool("key", "s")
        wait_until(lambda: list(tmp_path.glob("*.png")))
        xdotool("key", "space")
        time.sleep(0.5)
        xdotool("key", "q")
        assert demo.wait(30) == 0
    finally:
        demo.kill()
        demo.wait()
        log.close()
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(event["event"], event["name"], event["box"]) for event in events] == [
        ("enrolled", "ann", list(RED_BOX)),
        ("left", "ann", list(RED_BOX)),
    ]
    assert "the camera is away" in (tmp_path / "log").read_text()
    (snapshot,) = tmp_path.glob("*.png")
    with Image.open(snapshot) as saved:
        assert saved.size == (WIDTH, HEIGHT)
    assert len(list((tmp_path / "people.gallery" / "crops" / "ann").iterdir())) == 1
