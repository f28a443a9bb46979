"""The window: shows pictures, and turns keys and clicks into what the person wants."""

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
WIDEST = 1280  # pixels that a window has at first
ENTER, ESCAPE, BACKSPACE = (10, 13), 27, (8, 127)
KEYSYMS = 0x100  # of X11, from here on: keys that are no characters; Shift itself is one
CONTROLS = {0xFF0D: ENTER[0], 0xFF8D: ENTER[0], 0xFF1B: ESCAPE, 0xFF08: BACKSPACE[0]}
HELP = "q quit   space pause   s snapshot   click a box, then e to enrol"


class Wish(NamedTuple):
    """What the person wants: "quit", "pause", "snapshot", or "enrol" with the name typed ("" for an automatic one)."""

    kind: str
    text: str = ""


class Keyboard:
    """Keys to wishes; after `e` a name is typed, until Enter or Escape."""

    def __init__(self) -> None:
        self.typed: str | None = None  # the name so far; None while keys are commands

    def press(self, key: int) -> Wish | None:
        """What the `key`, a character's code, asks for, if anything."""
        if self.typed is not None:
            return self._type(key)
        if key == ord("e"):
            self.typed = ""
        return {ord("q"): Wish("quit"), ESCAPE: Wish("quit"), ord(" "): Wish("pause"), ord("s"): Wish("snapshot")}.get(
            key
        )

    def _type(self, key: int) -> Wish | None:
        assert self.typed is not None
        if key in ENTER:
            wish = Wish("enrol", self.typed.strip())
            self.typed = None
            return wish
        if key == ESCAPE:
            self.typed = None
        elif key in BACKSPACE:
            self.typed = self.typed[:-1]
        elif chr(key).isprintable():
            self.typed += chr(key)
        return None


class Window:
    """One OpenCV window; a context manager."""

    def __init__(self, title: str) -> None:
        """Opens it.

        Raises:
            RunError: no window can be opened here.
        """
        import cv2

        # Qt does not fail where there is no display, it ends the whole process: so another one tries first.
        done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, check=False)  # noqa: S603
        if done.returncode:
            raise RunError(
                "no window can be opened here (no display, or an OpenCV without windows); use --headless, "
                "with --output F.mp4 or --events F.jsonl"
            )
        self._cv2 = cv2
        self._title = title
        self.closed = False  # by the person
        self.clicked: tuple[int, int] | None = None  # the last place, in pixels of the picture; the owner clears it
        self._sized = False
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        cv2.setMouseCallback(title, self._click)

    def show(self, picture: Pixels) -> None:
        """Shows `picture`, uint8 RGB [H, W, 3]."""
        if not self._sized:
            shrunk = min(1.0, WIDEST / picture.shape[1])
            self._cv2.resizeWindow(self._title, round(shrunk * picture.shape[1]), round(shrunk * picture.shape[0]))
            self._sized = True
        self._cv2.imshow(self._title, np.ascontiguousarray(picture[:, :, ::-1]))

    def key(self, seconds: float = 0.0) -> int | None:
        """The code of a key that is pressed within `seconds`; None, and `closed`, when the window is closed."""
        code = self._cv2.waitKeyEx(max(1, round(1000 * seconds)))
        if self._cv2.getWindowProperty(self._title, self._cv2.WND_PROP_VISIBLE) < 1:
            self.closed = True
        if code < 0 or self.closed:
            return None
        symbol = code & 0xFFFF  # above it are Shift and its like, as states
        return symbol if symbol < KEYSYMS else CONTROLS.get(symbol)

    def close(self) -> None:
        with contextlib.suppress(self._cv2.error):  # closed by the person
            self._cv2.destroyWindow(self._title)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _click(self, event: int, x: int, y: int, *_: object) -> None:
        if event == self._cv2.EVENT_LBUTTONDOWN:
            self.clicked = (x, y)
