"""Writes a clip: a video for each camera, the ground truth as a table, and a gallery of crops."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import cv2

from bot_deploy.errors import RunError

from .clip import gallery_crops
from .output_folder import atomic_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .clip import Clip, RgbImage

TRUTH_COLUMNS = ("camera", "frame", "time", "identity", "left", "top", "right", "bottom", "visible")


def write_clip(out: Path, clip: Clip, *, progress: Callable[[int, int], None] | None) -> None:
    """See `bot_deploy.synthetic.generate_clip`."""
    with atomic_folder(out) as temporary, (temporary / "truth.csv").open("w", newline="", encoding="ascii") as file:
        truth = csv.writer(file, lineterminator="\n")
        truth.writerow(TRUTH_COLUMNS)
        for camera in range(1, len(clip.cameras) + 1):
            frames = _render_frames(clip, camera, truth.writerow, progress)
            _write_video(temporary / f"cam{camera}.mp4", clip, frames)
        for identity in clip.people:
            folder = temporary / "gallery" / f"{identity:04d}"
            folder.mkdir(parents=True)
            for number, crop in enumerate(gallery_crops(clip, identity), start=1):
                (folder / f"{identity:04d}_cam1_{number}.png").write_bytes(_encode_png(crop))


def _render_frames(
    clip: Clip,
    camera: int,
    write_row: Callable[[tuple[object, ...]], object],
    progress: Callable[[int, int], None] | None,
) -> Iterator[RgbImage]:
    """Render the frames of `camera`; calls `write_row` for each person on each frame."""
    for number in range(clip.frames):
        frame = clip.render_frame(camera, number)
        for person in frame.people:
            box = person.left, person.top, person.right, person.bottom
            time, identity = f"{number / clip.fps:.3f}", f"{person.identity:04d}"
            write_row((camera, number, time, identity, *box, f"{person.visible:.3f}"))
        yield frame.picture
        if progress is not None:
            progress((camera - 1) * clip.frames + number + 1, len(clip.cameras) * clip.frames)


def _write_video(path: Path, clip: Clip, pictures: Iterator[RgbImage]) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), clip.fps, (clip.width, clip.height))
    try:
        if not writer.isOpened():
            raise RunError("this OpenCV cannot write MPEG-4; reinstall opencv-python")
        for picture in pictures:
            writer.write(picture[:, :, ::-1])
    finally:
        writer.release()
    # OpenCV reports no error when the disk is full, so the frames are counted.
    reader = cv2.VideoCapture(str(path))
    written = int(reader.get(cv2.CAP_PROP_FRAME_COUNT))
    reader.release()
    if written != clip.frames:
        raise RunError(f"{path.name}: only {max(written, 0)} of {clip.frames} frames were written; is the disk full?")


def _encode_png(picture: RgbImage) -> bytes:
    success, data = cv2.imencode(".png", picture[:, :, ::-1])
    if not success:
        raise RunError("the picture cannot be encoded as PNG; reinstall opencv-python")
    return data.tobytes()
