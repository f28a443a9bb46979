"""Rank lists as one HTML file to send around: it holds its pictures, asks for nothing from outside and runs nothing."""

from __future__ import annotations

import base64
import io
import logging
from collections import Counter
from datetime import UTC, datetime
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING

from PIL import Image

from bot_deploy import images
from bot_deploy.errors import ImageError
from bot_deploy.files import write_atomically
from bot_deploy.progress import show_progress

from .montage import HEIGHT, MOST, WIDTH

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from bot_deploy.artifacts.contract import Calibration
    from bot_deploy.gallery import Filters
    from bot_deploy.matching.match import Match, Ranking

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({".html", ".htm"})
QUALITY = 80  # of the thumbnails' WebP
DATED = 1e8  # seconds; a smaller time is the number of a frame, see `gallery.GalleryItem`
FRAMES = {True: "right", False: "wrong", None: "unknown"}
SAID = {True: "✓ same person", False: "✗ another person", None: ""}

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b212c; --quiet: #566071; --line: #d8dce3; --card: #f4f5f8;
  --query: #285ac8; --right: #17773a; --wrong: #c02f2a; --unknown: #a9b0bb }
@media (prefers-color-scheme: dark) { :root { --paper: #14171c; --ink: #e7e9ee; --quiet: #a5adba; --line: #333a45;
  --card: #1d2128; --query: #7ca3ff; --right: #4fc577; --wrong: #ff7068; --unknown: #626b78 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 84rem; padding: 1.25rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
h1 { font-size: 1.5rem; margin: 0 0 .75rem }
h2 { font-size: 1rem; margin: 0; overflow-wrap: anywhere }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0; font-size: .875rem }
dt, .quiet { color: var(--quiet) }
dd { margin: 0; overflow-wrap: anywhere }
.key { display: flex; flex-wrap: wrap; gap: 0 .9em; font-size: .875rem; margin: .75rem 0 0 }
.key b { display: inline-block; width: .9em; height: .9em; margin-right: .35em; border-style: solid; border-width: 3px;
  border-radius: 3px; vertical-align: -.1em; print-color-adjust: exact; -webkit-print-color-adjust: exact }
article { border-top: 1px solid var(--line); margin-top: 1.25rem; padding-top: 1rem }
.verdict { margin: .25rem 0 .75rem; font-size: .875rem }
.row { display: grid; grid-template-columns: max-content 1fr; gap: .75rem 1.5rem }
.several { grid-template-columns: 1fr }
ol, ul { list-style: none; margin: 0; padding: 0; display: grid; gap: .9rem .75rem;
  grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)) }
.row:not(.several) > ul { grid-template-columns: 6.5rem }
figure { margin: 0; break-inside: avoid }
img, .gone { display: block; width: 6.5rem; height: 12.5rem; border: 4px solid; border-radius: 6px;
  background: var(--card); object-fit: contain; print-color-adjust: exact; -webkit-print-color-adjust: exact }
.gone { display: grid; place-items: center; text-align: center; font-size: .75rem; color: var(--quiet) }
.query { border-color: var(--query) } .right { border-color: var(--right) } .wrong { border-color: var(--wrong) }
.unknown { border-color: var(--unknown) }
figcaption { font-size: .75rem; line-height: 1.35; margin-top: .3rem; overflow-wrap: anywhere }
figcaption strong { font-size: .875rem }
figcaption span { display: block }
.right-said { color: var(--right) } .wrong-said { color: var(--wrong) }
.path { white-space: pre-wrap; color: var(--quiet) }
@media (max-width: 40rem) { body { padding: .75rem } .row { grid-template-columns: 1fr } }
@media print { :root { color-scheme: light; --paper: #fff; --ink: #000; --quiet: #444; --line: #bbb; --card: #fff;
  --query: #285ac8; --right: #17773a; --wrong: #c02f2a; --unknown: #a9b0bb }
  body { max-width: none; padding: 0; font-size: 10pt } h2, .verdict { break-after: avoid } }
"""
HEAD = f"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="color-scheme" content="light dark">
<title>Rank lists</title>
<style>{STYLE}</style>
"""


def write(rankings: Sequence[Ranking], facts: Mapping[str, str], root: Path, path: Path) -> None:
    """Writes the page to `path`: `facts` at its head, then an article for each of `rankings`.

    Where identities are known (see `Ranking.is_correct`), right matches are framed green and wrong ones red.

    Args:
        rankings: of which at most MOST matches each are drawn; the page says how many are not.
        facts: what the reader should know of how they came about.
        root: of the gallery; paths below it are shown as they are there.
        path: of the page.

    Raises:
        RunError: it cannot be written.
    """
    cached = lru_cache(4096)(_thumbnail)  # one gallery image may be found by many queries
    parts = [HEAD, "<header>\n<h1>Rank lists</h1>\n<dl>\n"]
    made = datetime.now(UTC).astimezone().strftime("%Y-%m-%d %H:%M %Z")
    parts += [f"<dt>{escape(name)}<dd>{_text(text)}\n" for name, text in {**facts, "Made": made}.items()]
    parts += ["</dl>\n", _key(rankings), "</header>\n<main>\n"]
    for ranking in show_progress(rankings, "drawing" if len(rankings) > 1 else None):
        shots = ranking.images or (ranking.query,)
        parts.append(f"<article>\n<h2>{_text(str(ranking.query))}</h2>\n")
        parts.append(f'<p class="verdict">{_verdict(ranking)}</p>\n')
        parts.append(f'<div class="{"row several" if len(shots) > 1 else "row"}">\n<ul>\n')
        parts += [_figure(cached(shot), "query", f"query {shot.name}", _seen(ranking, shot)) for shot in shots[:MOST]]
        parts.append("</ul>\n<ol>\n")
        for match in ranking.matches[:MOST]:
            right = ranking.is_correct(match)
            words = f"match {match.rank}, score {match.score:.4f}"
            parts.append(_figure(cached(match.path), FRAMES[right], words, _caption(match, right, root)))
        parts.append(f"</ol>\n</div>\n{_left_out(ranking, shots)}</article>\n")
    parts.append("</main>\n</html>\n")
    # The name of a file need not be text.
    write_atomically(
        path, lambda temporary: temporary.write_text("".join(parts), encoding="utf-8", errors="backslashreplace")
    )


def _thumbnail(path: Path) -> str:
    """The picture as a data URI, no larger than a tile and in its own proportions; "" where there is none."""
    try:
        pixels = images.read_image(path)
    except ImageError as error:  # a gallery's files may lie on another machine
        logger.warning(f"not drawn: {error}")
        return ""
    height, width = pixels.shape[:2]
    scale = min(1, HEIGHT / height, WIDTH / width)
    small = images.resize(pixels, (max(1, round(height * scale)), max(1, round(width * scale))))
    file = io.BytesIO()
    Image.fromarray(small).save(file, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _text(text: str) -> str:
    # Its own direction, so that a name cannot turn the words around it.
    return f"<bdi>{escape(text)}</bdi>"


def _figure(picture: str, frame: str, alt: str, caption: Iterator[str]) -> str:
    drawn = f'<img class="{frame}" width="{WIDTH}" height="{HEIGHT}" alt="{escape(alt)}" src="{picture}">'
    gone = f'<div class="gone {frame}" role="img" aria-label="{escape(alt)}">no picture</div>'
    return f"<li><figure>{drawn if picture else gone}<figcaption>{''.join(caption)}</figcaption></figure>\n"


def _caption(match: Match, right: bool | None, root: Path) -> Iterator[str]:
    yield f"<strong>{match.rank}</strong> {match.score:.4f}"
    if SAID[right]:
        yield f'<span class="{FRAMES[right]}-said">{SAID[right]}</span>'
    yield from _known(match.identity, match.camera, match.time)
    shown = match.path.relative_to(root) if match.path.is_relative_to(root) else match.path
    yield f'<span class="path">{_text(str(shown))}</span>'


def _seen(ranking: Ranking, shot: Path) -> Iterator[str]:
    yield "<strong>query</strong>"
    if ranking.images:
        yield f'<span class="path">{_text(shot.name)}</span>'
    else:
        yield from _known(*ranking.info)


def _known(identity: str | None, camera: int | None, time: float | None) -> Iterator[str]:
    if identity is not None:
        yield f"<span>identity {_text(identity)}</span>"
    if camera is not None:
        yield f"<span>camera {camera}</span>"
    if time is not None:
        yield f"<span>{moment(time)}</span>"


def moment(time: float) -> str:
    """`time`, as `gallery.GalleryItem` has it, to read."""
    if abs(time) < DATED:
        return f"frame {time:g}" if time != int(time) else f"frame {int(time)}"
    try:
        return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):  # a number in a table may be anything
        return f"time {time:g}"


def _verdict(ranking: Ranking) -> str:
    decision, words = ranking.verdict.decision, ranking.verdict.explanation
    return f"<strong>{escape(decision)}</strong>{escape(words.removeprefix(decision))}"


def _left_out(ranking: Ranking, shots: Sequence[Path]) -> str:
    left = [
        f"{number - MOST} more {what}"
        for number, what in ((len(ranking.matches), "matches"), (len(shots), "shots of the query"))
        if number > MOST
    ]
    nobody = "" if ranking.matches else '<p class="quiet">No matches.</p>\n'
    return nobody + (f'<p class="quiet">Not drawn: {" and ".join(left)}.</p>\n' if left else "")


# ---- facts ----


def counted(rankings: Sequence[Ranking], broken: int) -> str:
    """How many queries there are, and what the answers were."""
    decisions = Counter(ranking.verdict.decision for ranking in rankings)
    answers = ", ".join(f"{count} {decision}" for decision, count in decisions.most_common())
    return f"{len(rankings)} ({answers})" + (f"; {broken} more are broken" if broken else "")


def threshold(calibration: Calibration | None) -> str:
    """From which score a match is the same person."""
    if calibration is None:
        return "none: the model is not calibrated, so that scores only rank"
    return (
        f"match from {calibration.threshold:.3f} (false-accept rate {calibration.target:g} on {calibration.data}), "
        f"no match below {calibration.reject_threshold:.3f}"
    )


def left_out(filters: Filters, min_score: float, *, other_cameras: bool) -> str:
    """What of the gallery was not to be found."""
    cameras, excluded = filters.get("cameras"), filters.get("exclude_cameras")
    since, until = filters.get("since"), filters.get("until")
    words = (
        f"all cameras but {', '.join(map(str, cameras))}" if cameras else "",
        f"cameras {', '.join(map(str, excluded))}" if excluded else "",
        "the query's own camera" if other_cameras else "",
        "" if since is None else f"before {moment(since)}",
        "" if until is None else f"after {moment(until)}",
        f"scores below {min_score:g}" if min_score > -1 else "",
    )
    return "; ".join(filter(None, words)) or "nothing"


# ---- parts ----


def _key(rankings: Sequence[Ranking]) -> str:
    if all(ranking.is_correct(match) is None for ranking in rankings for match in ranking.matches):
        return ""
    frames = (("query", "query"), ("right", "same person"), ("wrong", "another person"), ("unknown", "not known"))
    return f'<p class="key">{"".join(f"<span><b class={frame}></b>{words}</span>" for frame, words in frames)}</p>\n'
