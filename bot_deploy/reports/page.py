"""Rank lists as one HTML file to send around. It holds its own images, loads nothing and runs no script."""

from __future__ import annotations

import base64
import io
import logging
from collections import Counter
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from PIL import Image

from bot_deploy import images
from bot_deploy.choices import MIN_TIMESTAMP_S
from bot_deploy.errors import ImageError, InputError
from bot_deploy.escaping import escape
from bot_deploy.files import write_atomically
from bot_deploy.footage.clips import cut_clip
from bot_deploy.footage.times import format_span
from bot_deploy.progress import show_progress

from .montage import MAX_TILES, TILE_HEIGHT, TILE_WIDTH
from .timeline import make_timelines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bot_deploy.artifacts.contract import Calibration
    from bot_deploy.footage import Appearance
    from bot_deploy.gallery import Filters
    from bot_deploy.images import Pixels
    from bot_deploy.matching.match import Ranking

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({".html", ".htm"})
WEBP_QUALITY = 80  # of the thumbnails
CACHED_THUMBNAILS = 4096  # many queries may match one gallery image


def write_html(rankings: Sequence[Ranking], details: Mapping[str, str], root: Path, path: Path) -> None:
    """Writes the page `path`: `details` at the top, then the matches of each of `rankings`.

    Where identities are known (see `Ranking.is_correct`), correct matches have a green frame and wrong ones a red one.

    Args:
        rankings: at most MAX_TILES matches of each are drawn; the page says how many are not.
        details: names and texts that say how the rankings were made.
        root: folder of the gallery; the paths of matches are shown relative to it.
        path: of the page.

    Raises:
        RunError: the file cannot be written.
    """
    correct = (ranking.is_correct(match) for ranking in rankings for match in ranking.matches)
    render_page(
        "page.html",
        path,
        root,
        details=details,
        rankings=show_progress(rankings, "drawing" if len(rankings) > 1 else None),
        identities_known=any(is_correct is not None for is_correct in correct),
        pictures={ranking.query: ranking.picture for ranking in rankings if ranking.picture is not None},
        MAX_TILES=MAX_TILES,
    )


def render_page(
    template: str,
    path: Path,
    root: Path,
    *,
    details: Mapping[str, str],
    pictures: Mapping[Path, Pixels] | None = None,
    **values: object,
) -> None:
    """Writes the page `path` from the file `template` with `values`.

    Args:
        template: a file in templates/.
        path: of the page.
        root: folder of the gallery.
        details: names and texts at the top.
        pictures: uint8 RGB [H, W, 3] of the paths that are no files.
        values: of the names in the template.

    Raises:
        RunError: the file cannot be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("bot_deploy.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_visible,
    )
    environment.filters |= {
        "thumbnail": lru_cache(CACHED_THUMBNAILS)(lambda image: _thumbnail(image, pictures or {})),
        "format_time": format_time,
        "span": lambda appearance: " to ".join(format_span(appearance)),
        "timelines": make_timelines,
        "clip": lru_cache(CACHED_THUMBNAILS)(_clip),
        "below_gallery": lambda crop: root / crop,
        "relative_to_gallery": lambda match: match.relative_to(root) if match.is_relative_to(root) else match,
    }
    now = datetime.now(UTC).astimezone().strftime("%Y-%m-%d %H:%M %Z")
    html = environment.get_template(template).render(
        details={**details, "Made": now}, TILE_HEIGHT=TILE_HEIGHT, TILE_WIDTH=TILE_WIDTH, **values
    )
    # A file name need not be valid text.
    write_atomically(path, lambda temporary: temporary.write_text(html, encoding="utf-8", errors="backslashreplace"))


def _visible(value: object) -> object:
    """What a template inserts: text with visible characters only; a part that a template has made stays as it is."""
    return value if hasattr(value, "__html__") else escape(str(value))


def _thumbnail(path: Path, pictures: Mapping[Path, Pixels]) -> str:
    """The image as a data URI that fits a tile and keeps its proportions; "" if the image cannot be read."""
    try:
        pixels = pictures[path] if path in pictures else images.read_image(path)
    except ImageError as error:  # the gallery's files may be on another machine
        logger.warning(f"not drawn: {error}")
        return ""
    height, width = pixels.shape[:2]
    scale = min(1, TILE_HEIGHT / height, TILE_WIDTH / width)
    small = images.resize(pixels, (max(1, round(height * scale)), max(1, round(width * scale))))
    file = io.BytesIO()
    Image.fromarray(small).save(file, "WEBP", quality=WEBP_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _clip(appearance: Appearance) -> str:
    """The clip of `appearance` as a data URI; "" if it cannot be cut."""
    try:
        clip = cut_clip(appearance)
    except InputError as error:  # the video may be on another machine, or deleted by the recorder
        logger.warning(str(error))
        return ""
    return f"data:video/webm;base64,{base64.b64encode(clip).decode()}"


def format_time(time: float) -> str:
    """The time of a `gallery.GalleryItem` as text: a date and time, or a frame number."""
    if abs(time) < MIN_TIMESTAMP_S:
        return f"frame {time:g}" if time != int(time) else f"frame {int(time)}"
    try:
        return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):  # a table of metadata may have any number
        return f"time {time:g}"


# ---- details ----


def describe_queries(rankings: Sequence[Ranking], broken: int) -> str:
    """The number of queries, and how often each decision occurs."""
    decisions = Counter(ranking.verdict.decision for ranking in rankings)
    counts = ", ".join(f"{count} {decision}" for decision, count in decisions.most_common())
    return f"{len(rankings)} ({counts})" + (f"; {broken} more are broken" if broken else "")


def describe_threshold(calibration: Calibration | None) -> str:
    """The scores from which a match is the same person, and below which it is not."""
    if calibration is None:
        return "none: the model is not calibrated, so scores only rank"
    return (
        f"match from {calibration.threshold:.3f} (false-accept rate {calibration.target_false_accept_rate:g} on "
        f"{calibration.data}), "
        f"no match below {calibration.reject_threshold:.3f}"
    )


def describe_filters(filters: Filters, min_score: float, *, exclude_same_camera: bool) -> str:
    """Which gallery images were left out."""
    cameras, excluded = filters.get("cameras"), filters.get("exclude_cameras")
    since, until = filters.get("since"), filters.get("until")
    left_out = (
        f"all cameras but {', '.join(map(str, cameras))}" if cameras else "",
        f"cameras {', '.join(map(str, excluded))}" if excluded else "",
        "the query's own camera" if exclude_same_camera else "",
        "" if since is None else f"before {format_time(since)}",
        "" if until is None else f"after {format_time(until)}",
        f"scores below {min_score:g}" if min_score > -1 else "",
    )
    return "; ".join(filter(None, left_out)) or "nothing"
