"""The cameras of the live demo: a source of frames, its name, and its clock."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy.datasets.names import parse_camera
from bot_deploy.errors import InputError
from bot_deploy.footage.videos import find_camera, find_start
from bot_deploy.video.sources.video_file import VideoSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bot_deploy.video.sources import Frame, Source


@dataclass(frozen=True)
class Camera:
    """A source with a name, and the time of day at which it begins, as `bot index` finds them."""

    source: Source
    name: str
    start: float | None = None  # of a recording, in seconds since 1970; None if unknown

    def dated(self, frame: Frame) -> Frame:
        """`frame` with its time of day: now for a live source, else by the recording's clock, if it has one."""
        if self.source.is_live:
            return replace(frame, clock=time.time())
        return frame if self.start is None else replace(frame, clock=self.start + frame.time)


def name_cameras(
    sources: Sequence[Source], addresses: Sequence[str], names: Sequence[str] = (), starts: Sequence[str] = ()
) -> list[Camera]:
    """The cameras of `sources`, opened from `addresses`.

    Args:
        sources: in the order of `addresses`.
        addresses: as of `open_source`.
        names: one for each; without any, from each address.
        starts: when each recording begins; without any, from its name or metadata.

    Raises:
        InputError: there are other numbers of names or times, or one cannot be used.
    """
    for option, given in (("camera", names), ("start", starts)):
        if given and len(given) != len(sources):
            raise InputError(f"{len(given)} values for {len(sources)} sources; give one for each", parameter=option)
    cameras: list[Camera] = []
    for place, (source, address) in enumerate(zip(sources, addresses, strict=True)):
        name = _find_name(source, address, names[place] if names else None)
        same = sum(camera.name == name or camera.name.startswith(f"{name} (") for camera in cameras)
        start = starts[place] if starts else None
        metadata = source.metadata if isinstance(source, VideoSource) else {}
        begin = None if source.is_live else find_start(Path(address), metadata, start)[0]
        cameras.append(Camera(source, f"{name} ({same + 1})" if same else name, begin))
    return cameras


def _find_name(source: Source, address: str, name: str | None) -> str:
    if name is None and (source.is_live or "://" in address):
        number = parse_camera(Path(address.partition("?")[0]).stem)
        return source.name if number is None else f"cam{number}"
    return find_camera(Path(address), name).value
