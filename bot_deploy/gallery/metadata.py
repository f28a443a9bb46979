"""A table with identity, camera and time of the crops of a gallery."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot_deploy.datasets.names import CropMetadata, parse_time
from bot_deploy.datasets.table import parse_camera_number, read_csv
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def read_metadata(path: Path) -> dict[str, CropMetadata]:
    """The .csv at `path`: path (below the gallery) and any of identity, camera (a number) and time.

    Raises:
        InputError: a column is missing, or a row has a wrong value; the message names the line.
    """
    rows = read_csv(path)
    if not rows or "path" not in rows[0].values or not {"identity", "camera", "time"} & rows[0].values.keys():
        raise InputError(f"{path}: needs the column path, and any of identity, camera and time")
    metadata: dict[str, CropMetadata] = {}
    for line, row in rows:
        identity, time = row.get("identity", "").strip(), row.get("time", "").strip()
        try:
            if not row["path"]:
                raise ValueError  # noqa: TRY301
            camera = parse_camera_number(row.get("camera", ""))
            crop = CropMetadata(identity or None, camera, parse_time(time) if time else None)
        except ValueError:
            raise InputError(
                f"{path}, line {line}: give path, identity, a camera number and a time as a number or "
                "2026-01-31T12:00:00; all but path may be empty"
            ) from None
        metadata[row["path"]] = crop
    return metadata
