"""Recorded video as a gallery: who was in view, when, and on which camera.

`video` finds the appearances in a file, `gallery` keeps the vectors of their crops; this package joins them.
"""

from __future__ import annotations

from .indexing import FootageUpdate, VideoUpdate, index_footage, open_footage_gallery
from .lookup import Appearance, Footage
from .videos import find_videos, holds_footage, is_video

__all__ = [
    "Appearance",
    "Footage",
    "FootageUpdate",
    "VideoUpdate",
    "find_videos",
    "holds_footage",
    "index_footage",
    "is_video",
    "open_footage_gallery",
]
