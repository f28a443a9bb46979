"""When and on which camera the appearances of a rank list were: a timeline with a lane for each camera."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bot_deploy.footage.times import format_clock, format_position

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bot_deploy.footage import Appearance
    from bot_deploy.matching.match import Match

TICKS = 5  # labels under a timeline
MIN_WIDTH = 0.4  # per cent of the width, of a bar
ROW_WIDTH = 4.0  # per cent of the width that a thumbnail takes; a nearer one goes to the next row


@dataclass(frozen=True)
class Bar:
    """An appearance on a lane; places in per cent of the width."""

    match: Match
    appearance: Appearance
    left: float
    width: float
    row: int  # from 0


@dataclass
class Lane:
    """One camera."""

    name: str
    bars: list[Bar] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return 1 + max(bar.row for bar in self.bars)


@dataclass(frozen=True)
class Timeline:
    """A span of time: of all cameras with a clock, or of one video without."""

    title: str
    lanes: list[Lane]
    ticks: list[tuple[float, str]]  # place in per cent, and time


def make_timelines(matches: Sequence[Match]) -> list[Timeline]:
    """The timelines of those `matches` that are from videos: one for all with a clock, and one for each other video."""
    groups: dict[str, list[tuple[Match, Appearance]]] = {}
    for match in matches:
        if match.appearance:
            title = "" if match.appearance.has_clock else str(match.appearance.video)
            groups.setdefault(title, []).append((match, match.appearance))
    return [_make_timeline(title, entries) for title, entries in sorted(groups.items())]


def _make_timeline(title: str, entries: list[tuple[Match, Appearance]]) -> Timeline:
    begin = min(appearance.start for _, appearance in entries)
    end = max(appearance.end for _, appearance in entries)
    scale = 100 / max(end - begin, 1.0)
    lanes: dict[str, Lane] = {}
    for match, appearance in sorted(entries, key=lambda entry: entry[1].start):
        lane = lanes.setdefault(appearance.camera, Lane(appearance.camera))
        left = scale * (appearance.start - begin)
        width = max(MIN_WIDTH, scale * (appearance.end - appearance.start))
        ends: dict[int, float] = {}
        for bar in lane.bars:
            ends[bar.row] = bar.left + max(bar.width, ROW_WIDTH)
        row = next((row for row, right in sorted(ends.items()) if right <= left), len(ends))
        lane.bars.append(Bar(match, appearance, round(left, 3), round(min(width, 100 - left), 3), row))
    has_clock = entries[0][1].has_clock
    times = [begin + (end - begin) * step / (TICKS - 1) for step in range(TICKS)]
    ticks = [
        (100 * step / (TICKS - 1), format_clock(time).removesuffix(" UTC") if has_clock else format_position(time))
        for step, time in enumerate(times)
    ]
    return Timeline(title, [lanes[name] for name in sorted(lanes)], ticks)
