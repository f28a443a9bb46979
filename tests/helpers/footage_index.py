"""An index of footage with made-up appearances: no video and no model is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from bot_deploy.artifacts.contract import Contract
from bot_deploy.footage.records import (
    RECORD_FORMAT,
    AppearanceRecord,
    CropRecord,
    VideoRecord,
    crop_path,
    footage_folder,
    quote_path,
    write_record,
)
from bot_deploy.gallery import GalleryItem, open_or_create_index

TILL = 100_000  # the number of a camera that has a name only
CROPS, SECONDS = 4, 9.0  # of an appearance; a crop every three seconds
TOGETHER = 3  # appearances in view at one time


def write_footage_index(
    out: Path, contract: Contract, people: npt.NDArray[np.float32], *, cameras: tuple[str, ...] = ("cam1", "till")
) -> None:
    """Writes the index `out`, in which everybody of `people` is in view once, on each of `cameras`.

    `people` are vectors [P, CROPS, D] of unit length. TOGETHER of them are in view at one time, side by side.
    """
    footage = footage_folder(str(out))
    with open_or_create_index(out, contract, footage) as index:
        for place, camera in enumerate(cameras):
            folder = footage / f"{camera}-{place:08x}"
            entries, items = [], []
            for person in range(len(people)):
                start = 20.0 * (person // TOGETHER)
                left = 100 * (person % TOGETHER)
                looks = tuple(
                    CropRecord(int(10 * (start + 3 * crop)) + 1, start + 3 * crop, (left, 0, left + 50, 150))
                    for crop in range(CROPS)
                )
                number, end = person + 1, start + SECONDS
                entries.append(AppearanceRecord(number, start, end, looks[0].frame, looks[-1].frame, 0.9, looks))
                items += [
                    GalleryItem(
                        f"{folder.name}/{crop_path(number, look.frame)}", camera=_number(camera), time=look.time
                    )
                    for look in looks
                ]
            index.add(items, people.reshape(-1, people.shape[-1]))
            folder.mkdir(parents=True)
            video = quote_path(out.parent / f"{camera}.mp4")
            record = VideoRecord(
                RECORD_FORMAT, video, "f", "s", camera, _number(camera), None, 10.0, is_finished=True,
                appearances=tuple(entries),
            )  # fmt: skip
            write_record(folder, record)


def _number(camera: str) -> int:
    return int(camera[3:]) if camera.startswith("cam") else TILL
