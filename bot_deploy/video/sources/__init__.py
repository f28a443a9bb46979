"""Sources of frames: a camera, a stream, a video or a folder. To add a kind, add its function to `OPENERS`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy.addresses import mask_address
from bot_deploy.choices import MAX_FPS, MIN_FPS
from bot_deploy.errors import InputError, require_range

from .base import Frame, Source
from .files import open_frame_folder, open_video, open_web_video
from .streams import CAMERA, open_camera, open_stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from .capture import Capture

__all__ = ["Frame", "Source", "check_source", "make_source", "open_source"]

# Tried in this order. Each takes (address, name for messages, fps, make_capture) and returns None for another kind.
OPENERS = (open_camera, open_web_video, open_stream, open_frame_folder, open_video)
KINDS = "a camera number, a video, a folder of frames or an address such as rtsp://host/stream"


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
    source = make_source(address, fps=fps, make_capture=make_capture)
    try:
        source.connect()
    except BaseException:  # KeyboardInterrupt too
        source.close()
        raise
    return source


def make_source(
    address: str, *, fps: float | None = None, make_capture: Callable[[str], Capture] | None = None
) -> Source:
    """The source that `open_source` returns, which does not wait for the first picture of a camera or stream.

    Raises:
        InputError: it is no source, or a recording cannot be read.
    """
    name = check_source(address)
    if fps is not None:
        require_range("fps", fps, MIN_FPS, MAX_FPS)
    try:
        for opener in OPENERS:
            source = opener(address, name, fps, make_capture)
            if source is not None:
                return source
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error})") from None
    raise _missing(name)


def check_source(address: str) -> str:
    """Checks that `address` is a camera number, an address, or the path of something; returns its name for messages.

    Raises:
        InputError: it is none of these.
    """
    if "://" in address:
        return mask_address(address)
    try:
        exists = bool(address) and (Path(address).is_file() or Path(address).is_dir())  # a pipe could block
    except (OSError, ValueError):  # a null byte or too long
        exists = False
    if exists or CAMERA.fullmatch(address):
        return address  # the path of a file is no address, whatever characters are in it
    raise _missing(mask_address(address))


def _missing(name: str) -> InputError:
    return InputError(f"{name or 'an empty name'}: no such file or folder; a source is {KINDS}", parameter="source")
