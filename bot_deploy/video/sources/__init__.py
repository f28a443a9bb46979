"""Sources of frames: a camera, a stream, a video or a folder. To add a kind, add its function to `OPENERS`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bot_deploy.errors import InputError, require_range

from .base import Frame, Source
from .files import open_frame_folder, open_video, open_web_video
from .streams import open_camera, open_stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from .capture import Capture

__all__ = ["Frame", "Source", "open_source"]

# Tried in this order. Each takes (address, name for messages, fps, make_capture) and returns None for another kind.
OPENERS = (open_camera, open_web_video, open_stream, open_frame_folder, open_video)
MIN_FPS, MAX_FPS = 1e-3, 1000  # frames per second
KINDS = "a camera number, a video, a folder of frames or an address such as rtsp://…"


def open_source(
    address: str, *, fps: float | None = None, make_capture: Callable[[str], Capture] | None = None
) -> Source:
    """Opens a source of frames.

    Args:
        address: a camera number, a video, a folder of frames, one picture, or an address such as rtsp://host/stream.
            A web address that ends like a video file is a video; other addresses are live streams.
        fps: frames per second; default: 1 in a folder, else as the camera or video reports.
        make_capture: function from the camera number or a stream's address to a capture; default: cv2.VideoCapture.

    OpenCV's log and RTSP over TCP are settings of the whole process: see `bot_deploy.video.opencv`.

    Raises:
        InputError: it is no source, cannot be opened, or gives no frame.
    """
    name = mask_passwords(address)
    if fps is not None:
        require_range("fps", fps, MIN_FPS, MAX_FPS)
    try:
        for opener in OPENERS:
            source = opener(address, name, fps, make_capture)
            if source is not None:
                return source
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error})") from None
    raise InputError(f"{name or 'an empty name'}: no such file or folder; a source is {KINDS}", parameter="source")


def mask_passwords(address: str) -> str:
    """`address` as messages may show it: without user and password, and without values such as token=..."""
    if "://" not in address:
        return address
    bare = re.sub(r"://.*@", "://***@", address)
    return re.sub(r"((?:pass|pwd|token|key|auth|secret|sig)\w*=)[^&]*", r"\1***", bare, flags=re.IGNORECASE)
