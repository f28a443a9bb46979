"""Where frames come from: a camera, an address, a video or a folder; `open_source` tells which from the words."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy import images
from bot_deploy.errors import InputError

from .base import Capture, Frame, Source, quiet
from .files import Folder, Video
from .streams import OPENING, PATIENCE, Live

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Frame", "Source", "open_source"]

SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp")
VIDEOS = (".mp4", ".m4v", ".mkv", ".avi", ".mov", ".webm")  # such a file does not turn live by being on a web server
CAMERA = re.compile(r"(?:/dev/video)?([0-9]+)")
KINDS = "a camera number, a video, a folder of frames or an address such as rtsp://…"


def open_source(spec: str, *, capture: Callable[[str], Capture] | None = None) -> Source:
    """The source of frames that `spec` names: a camera number, a video, a folder of frames or an address.

    Addresses are live streams, except web addresses that end like a video file.
    `capture` makes something like a cv2.VideoCapture from `spec`; by default OpenCV's.

    Raises:
        InputError: it cannot be opened, or not one frame can be had from it.
    """
    quiet()
    if camera := CAMERA.fullmatch(spec):
        number = camera[1]
        return Live(
            f"camera {number}",
            lambda: (capture or _camera)(number),
            lambda: _camera_remedy(Path(f"/dev/video{number}")),
        )
    if "://" not in spec:
        return _files(spec, capture)
    scheme, name = spec.partition("://")[0].lower(), masked(spec)
    if scheme not in SCHEMES:
        raise InputError(f"{name}: not an address of a kind known here: {', '.join(f'{word}://' for word in SCHEMES)}")
    if scheme.startswith("http") and spec.partition("?")[0].lower().endswith(VIDEOS):
        return Video(name, lambda: (capture or _stream)(spec))
    return Live(name, lambda: (capture or _stream)(spec), _stream_remedy)


def masked(address: str) -> str:
    """`address` as it may be shown: without user and password, nor what looks like one further on."""
    bare = re.sub(r"://.*@", "://***@", address)
    return re.sub(r"((?:pass|pwd|token|key|auth|secret|sig)\w*=)[^&]*", r"\1***", bare, flags=re.IGNORECASE)


def _files(spec: str, capture: Callable[[str], Capture] | None) -> Source:
    path = Path(spec)
    try:
        if spec and path.is_dir():
            files = images.find_images(path)
            # Those below are seldom frames too, unless all are.
            return Folder(spec, [file for file in files if file.parent == path] or files)
        if not path.is_file():
            raise InputError(f"{spec or 'an empty name'}: no such file or folder; a source is {KINDS}")
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise InputError(f"{spec}: cannot be read ({error.strerror or error})") from None
    if not head:
        raise InputError(f"{spec}: the file is empty")
    if path.suffix.lower() in images.SUFFIXES:
        return Folder(spec, [path])
    if b"\0" not in head:  # FFmpeg would draw it: it takes a .txt for ANSI art
        raise InputError(f"{spec}: this is text; a source is {KINDS}")
    return Video(spec, lambda: (capture or _video)(spec))


def _camera(number: str) -> Capture:
    import cv2

    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(round(PATIENCE)))
    camera = cv2.VideoCapture(int(number))
    camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # not every driver can
    return camera


def _stream(address: str) -> Capture:
    import cv2

    if address.startswith("rtsp"):  # over UDP, lost packets are grey smears
        os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")
    waits = {cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: OPENING, cv2.CAP_PROP_READ_TIMEOUT_MSEC: PATIENCE}
    return cv2.VideoCapture(
        address, cv2.CAP_FFMPEG, [word for key, seconds in waits.items() for word in (key, round(1000 * seconds))]
    )


def _video(path: str) -> Capture:
    import cv2

    return cv2.VideoCapture(str(Path(path).absolute()))  # absolute: "a:b.mp4" is no protocol


def _camera_remedy(device: Path) -> str:
    others = sorted(Path("/dev").glob("video[0-9]*"), key=lambda path: (len(path.name), path.name))
    numbers = ", ".join(path.name.removeprefix("video") for path in others)
    if not sys.platform.startswith("linux"):
        return "is it plugged in, allowed in the privacy settings, and not used by another program?"
    if not others:
        return "there is no camera here (no /dev/video*); plug one in, or name a video or an rtsp:// address"
    if device not in others:
        return f"cameras here: {numbers}"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"{device} may not be used by you; `sudo usermod -aG video $USER` and log in anew"
    return f"another program may be using {device}, or it is no camera of its own; here are: {numbers}"


def _stream_remedy() -> str:
    return (
        "check host, port, path, user and password, for instance in VLC; "
        "OPENCV_FFMPEG_LOGLEVEL=24 in the environment shows what FFmpeg says"
    )
