"""OpenCV's settings for the whole process. The command line applies them; the library changes none of them."""

from __future__ import annotations

import os

READ_TIMEOUT_S = 5.0  # for a frame to arrive
ENVIRONMENT = {
    "OPENCV_FFMPEG_LOGLEVEL": "-8",  # nothing
    "OPENCV_FFMPEG_CAPTURE_OPTIONS": "rtsp_transport;tcp",  # over UDP, lost packets show as grey smears
    "OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT": str(round(READ_TIMEOUT_S)),
}


def configure_opencv() -> None:
    """Silences OpenCV and FFmpeg on stderr, and reads RTSP over TCP; variables that the user has set stay.

    Our own messages name the same problems. Call it before the first source is opened.
    """
    is_log_level_set = "OPENCV_LOG_LEVEL" in os.environ
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import cv2

    if not is_log_level_set:
        set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # the second from 4.13 on
        set_log_level(0)
