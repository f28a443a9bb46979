"""A clip as files: a video for each camera, the truth as a table, a gallery of crops."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import cv2

from bot_deploy.errors import RunError

from .clip import portraits
from .folder import whole_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .clip import Clip, Picture

COLUMNS = ("camera", "frame", "time", "identity", "left", "top", "right", "bottom", "visible")


def write_clip(out: Path, clip: Clip, *, progress: Callable[[int, int], None] | None) -> None:
    """See `bot_deploy.synthetic.generate_clip`."""
    with whole_folder(out) as half, (half / "truth.csv").open("w", newline="", encoding="ascii") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for camera in range(1, len(clip.cameras) + 1):
            _write_video(half / f"cam{camera}.mp4", clip, _pictures(clip, camera, table.writerow, progress))
        for identity in clip.people:
            folder = half / "gallery" / f"{identity:04d}"
            folder.mkdir(parents=True)
            for number, crop in enumerate(portraits(clip, identity), start=1):
                (folder / f"{identity:04d}_cam1_{number}.png").write_bytes(_png(crop))


def _pictures(
    clip: Clip,
    camera: int,
    tell: Callable[[tuple[object, ...]], object],
    progress: Callable[[int, int], None] | None,
) -> Iterator[Picture]:
    """The frames of `camera`; their truth goes to `tell`, row by row."""
    for number in range(clip.frames):
        frame = clip.frame(camera, number)
        for seen in frame.people:
            box = seen.left, seen.top, seen.right, seen.bottom
            tell((camera, number, f"{number / clip.fps:.3f}", f"{seen.identity:04d}", *box, f"{seen.visible:.3f}"))
        yield frame.picture
        if progress is not None:
            progress((camera - 1) * clip.frames + number + 1, len(clip.cameras) * clip.frames)


def _write_video(path: Path, clip: Clip, pictures: Iterator[Picture]) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), clip.fps, (clip.width, clip.height))
    try:
        if not writer.isOpened():
            raise RunError("this OpenCV cannot write MPEG-4; reinstall opencv-python")
        for picture in pictures:
            writer.write(picture[:, :, ::-1])
    finally:
        writer.release()
    # OpenCV does not tell when the disk is full.
    reader = cv2.VideoCapture(str(path))
    written = int(reader.get(cv2.CAP_PROP_FRAME_COUNT))
    reader.release()
    if written != clip.frames:
        raise RunError(f"{path.name}: only {max(written, 0)} of {clip.frames} frames were written; is the disk full?")


def _png(picture: Picture) -> bytes:
    done, data = cv2.imencode(".png", picture[:, :, ::-1])
    if not done:
        raise RunError("the picture cannot be encoded as PNG; reinstall opencv-python")
    return data.tobytes()
