"""The window of the live demo: shows pictures, and turns keys and clicks into commands."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from bot_deploy.errors import RunError

if TYPE_CHECKING:
    from bot_deploy.images import Pixels

PROBE = "import cv2; cv2.namedWindow('bot'); cv2.waitKey(1); cv2.destroyAllWindows()"
MAX_INITIAL_WIDTH_PX = 1280  # of the window when it opens
ENTER, ESCAPE, BACKSPACE = (10, 13), 27, (8, 127)  # character codes
FIRST_KEYSYM = 0x100  # X11 key symbols from here on are no characters, such as Shift
KEYSYM_CHARACTERS = {0xFF0D: ENTER[0], 0xFF8D: ENTER[0], 0xFF1B: ESCAPE, 0xFF08: BACKSPACE[0]}
KEY_HELP = "q quit   space pause   s snapshot   click a box, then e to enrol"


class Command(NamedTuple):
    """A command of the user: "quit", "pause", "snapshot", or "enrol" with the typed name ("" for an automatic one)."""

    kind: str
    name: str = ""


class Keyboard:
    """Turns keys into commands; after `e`, keys are letters of a name until Enter or Escape."""

    def __init__(self) -> None:
        self.typed_name: str | None = None  # the name so far; None while keys are commands

    def press(self, key: int) -> Command | None:
        """The command that the character code `key` completes, if any."""
        if self.typed_name is not None:
            return self._type(key)
        if key == ord("e"):
            self.typed_name = ""
        commands = {ord("q"): "quit", ESCAPE: "quit", ord(" "): "pause", ord("s"): "snapshot"}
        return Command(commands[key]) if key in commands else None

    def _type(self, key: int) -> Command | None:
        assert self.typed_name is not None
        if key in ENTER:
            command = Command("enrol", self.typed_name.strip())
            self.typed_name = None
            return command
        if key == ESCAPE:
            self.typed_name = None
        elif key in BACKSPACE:
            self.typed_name = self.typed_name[:-1]
        elif chr(key).isprintable():
            self.typed_name += chr(key)
        return None


class Window:
    """An OpenCV window; a context manager."""

    def __init__(self, title: str) -> None:
        """Opens the window.

        Raises:
            RunError: there is no display, or OpenCV cannot open windows.
        """
        import cv2

        # Without a display, Qt ends the whole process, so another process tries first.
        probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, check=False)  # noqa: S603
        if probe.returncode:
            raise RunError(
                "no window can be opened (no display, or an OpenCV without windows); run without a window, and write a "
                "video or events instead",
                parameter="headless",
            )
        self._cv2 = cv2
        self._title = title
        self._is_sized = False
        self._click: tuple[int, int] | None = None  # the last click, until `take_click`
        self.is_closed = False  # by the user
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        cv2.setMouseCallback(title, self._on_mouse)

    def show(self, picture: Pixels) -> None:
        """Shows `picture`, uint8 RGB [H, W, 3]."""
        if not self._is_sized:
            scale = min(1.0, MAX_INITIAL_WIDTH_PX / picture.shape[1])
            self._cv2.resizeWindow(self._title, round(scale * picture.shape[1]), round(scale * picture.shape[0]))
            self._is_sized = True
        self._cv2.imshow(self._title, np.ascontiguousarray(picture[:, :, ::-1]))

    def wait_key(self, seconds: float = 0.0) -> int | None:
        """The character code of a key that is pressed within `seconds`, else None; also notices a closed window."""
        code = self._cv2.waitKeyEx(max(1, round(1000 * seconds)))
        if self._cv2.getWindowProperty(self._title, self._cv2.WND_PROP_VISIBLE) < 1:
            self.is_closed = True
        if code < 0 or self.is_closed:
            return None
        keysym = code & 0xFFFF  # the higher bits say whether Shift and other modifiers are pressed
        return keysym if keysym < FIRST_KEYSYM else KEYSYM_CHARACTERS.get(keysym)

    def take_click(self) -> tuple[int, int] | None:
        """The last click since the previous call, in pixels of the picture: x and y."""
        click, self._click = self._click, None
        return click

    def close(self) -> None:
        with contextlib.suppress(self._cv2.error):  # the user has closed it
            self._cv2.destroyWindow(self._title)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _on_mouse(self, event: int, x: int, y: int, *_: object) -> None:
        if event == self._cv2.EVENT_LBUTTONDOWN:
            self._click = (x, y)
