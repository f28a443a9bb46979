"""Synthetic pedestrians: crops in Market-1501 layout, the data set that needs no download, and video clips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["cached_dataset", "generate_clip", "generate_dataset"]


def generate_dataset(
    out: Path,
    *,
    train_identities: int = 120,
    test_identities: int = 60,
    images_per_camera: int = 4,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the set under `out`, which must not exist or be empty.

    `out` receives `bounding_box_train/`, `query/` and `bounding_box_test/`, holding 64x128 JPEG crops named
    `IIII_cCsS_FFFFFF_NN.jpg`; gallery distractors carry identity `0000` and junk carries `-1`. Train and test
    identities are disjoint and each is seen by 3 to 6 cameras, `images_per_camera` times by each (at least 2).

    The same arguments write the same bytes whatever `workers` is: the number of processes, by default one per
    core, and 1 to stay in the calling process. `progress(done, total)` is called as images are finished.

    The set appears under `out` at once when it is complete; an interrupted run leaves nothing there.
    Raises `bot_deploy.errors.InputError` for a non-empty `out` and for counts that make no set.
    """
    from .dataset import write_set

    write_set(
        Path(out),
        train_identities=train_identities,
        test_identities=test_identities,
        images_per_camera=images_per_camera,
        seed=seed,
        workers=workers,
        progress=progress,
    )


def generate_clip(
    out: Path,
    *,
    people: int = 8,
    cameras: int = 2,
    seconds: float = 20,
    fps: int = 25,
    height: int = 540,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a clip of synthetic people before several cameras under `out`, which must not exist or be empty.

    `out` receives `cam1.mp4`, `cam2.mp4`, ..., filmed at the same time, `height` pixels high and 16:9; `truth.csv`: who
    is where on which frame; and `gallery/IIII/`: crops of each person before the first camera. The people are those
    searched for in the set that `generate_dataset` writes with the same `seed`, under the same numbers.

    A row of `truth.csv` is one person on one frame: camera (1 is `cam1.mp4`), frame (from 0), time (seconds), identity,
    the box left, top, right, bottom (pixels; it ends at the edges of the picture, and before right and bottom), and
    visible: the share of the person that is in the picture and behind nobody.

    The same arguments write the same bytes. `progress(done, total)` is called as frames are finished. Like a set, a
    clip appears under `out` when it is complete.
    Raises `bot_deploy.errors.InputError` for a non-empty `out` and for what cannot be filmed.
    """
    from .clip import clip
    from .video import write_clip

    write_clip(
        Path(out),
        clip(seed, people=people, cameras=cameras, seconds=seconds, fps=fps, height=height),
        progress=progress,
    )


def cached_dataset() -> Path:
    """The default set in the user's cache folder, written at the first call (some seconds)."""
    from bot_deploy.files import cache_folder

    root = cache_folder("synthetic-1")
    if not root.exists():
        from bot_deploy.errors import InputError
        from bot_deploy.progress import progress_counter

        try:
            with progress_counter("drawing synthetic pedestrians") as progress:
                # One process: more would ask every script that opens the set for a main guard.
                generate_dataset(root, workers=1, progress=progress)
        except (InputError, OSError):
            if not root.exists():  # otherwise another process was faster
                raise
    return root
