"""Synthetic pedestrians: a data set of crops in Market-1501 layout that needs no download, and video clips."""

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
    """Write a data set of crops to the folder `out`, in Market-1501 layout.

    `out` gets `bounding_box_train/`, `query/` and `bounding_box_test/` with JPEG crops of 64x128 pixels, named
    `IIII_cCsS_FFFFFF_NN.jpg`. Distractors in the gallery have the identity `0000`, and junk has `-1`. Train and test
    identities are disjoint. Each identity is seen by 3 to 6 cameras, in `images_per_camera` crops (2 to 100) per
    camera.

    The same arguments write the same bytes. `workers` is the number of processes (default: one per core) and changes
    no bytes. With 1, no process is started; with more, a script needs an `if __name__ == "__main__"` guard.
    `progress(done, total)` is called when crops are finished.

    The data set appears under `out` only when it is complete; an interrupted run leaves nothing there.

    Raises:
        InputError: `out` exists and is not an empty folder, or a number is outside its limits.
    """
    from .dataset_files import write_dataset

    write_dataset(
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
    groups: float = 0.0,
    changing_light: bool = False,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a clip of synthetic people, filmed by several cameras at the same time, to the folder `out`.

    `out` gets one video per camera (`cam1.mp4`, `cam2.mp4`, ...; frames are `height` pixels high and 16:9),
    `truth.csv` with the ground truth, and `gallery/IIII/` with crops of each person from the first camera. The people
    are test identities of the data set that `generate_dataset` writes with the same `seed`, with the same numbers.
    `groups` (0 to 1) is the share of people who walk in twos and threes. With `changing_light`, the brightness and
    colour of each camera's light change with time, so that people return in another light.

    A row of `truth.csv` is one person on one frame: camera (1 is `cam1.mp4`), frame (from 0), time (seconds), identity,
    box, and visible. The box is left, top, right, bottom in pixels; it is cut at the edges of the frame, and ends
    before right and bottom. Visible is the fraction of the person that is inside the frame and not occluded by other
    people.

    The same arguments write the same bytes. `progress(done, total)` is called when frames are finished. The clip
    appears under `out` only when it is complete; an interrupted run leaves nothing there.

    Raises:
        InputError: `out` exists and is not an empty folder, or a number is outside its limits.
        RunError: a video cannot be written.
    """
    from .clip import plan_clip
    from .clip_files import write_clip

    write_clip(
        Path(out),
        plan_clip(
            seed,
            people=people,
            cameras=cameras,
            seconds=seconds,
            fps=fps,
            height=height,
            groups=groups,
            changing_light=changing_light,
        ),
        progress=progress,
    )


def cached_dataset(workers: int | None = 1) -> Path:
    """The folder of the default data set in the user's cache; the first call generates it, which takes a minute.

    With more `workers`, or None for one per core, each script that calls it needs a `__main__` guard.
    """
    from bot_deploy.files import cache_folder

    root = cache_folder("synthetic-1")
    if not root.exists():
        from bot_deploy.errors import InputError
        from bot_deploy.progress import progress_counter

        try:
            with progress_counter("drawing synthetic pedestrians") as progress:
                generate_dataset(root, workers=workers, progress=progress)
        except (InputError, OSError):
            if not root.exists():  # otherwise another process has written it meanwhile
                raise
    return root
