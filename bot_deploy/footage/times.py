"""Times of footage as text: the time of day, or the position in a video."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .lookup import Appearance

POSITION = re.compile(r"(?:(?:(\d{1,4}):)?(\d{1,2}):)?(\d{1,6}(?:\.\d{1,6})?)")  # [[h:]m:]s


def format_clock(time: float) -> str:
    """Seconds since 1970 as 2026-01-31 12:00:05 UTC."""
    try:
        return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"time {time:g}"


def format_position(seconds: float) -> str:
    """Seconds of a video as 00:12:31."""
    whole = int(seconds)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def format_span(appearance: Appearance) -> tuple[str, str]:
    """Begin and end: 2026-01-31 12:00:05 and 12:00:17 (UTC), or positions in the video."""
    if not appearance.has_clock:
        return format_position(appearance.video_start), format_position(appearance.video_end)
    start, end = format_clock(appearance.start), format_clock(appearance.end)
    return start.removesuffix(" UTC"), end.removesuffix(" UTC")[-len("12:00:17") :]


def parse_position(text: str) -> float | None:
    """The seconds that a position such as 00:12:31, 12:31.5 or 751 means; None for other text."""
    match = POSITION.fullmatch(text)
    if match is None:
        return None
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds
