"""Writes the data set: renders the planned crops in several processes and saves them in Market-1501 layout."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING

from bot_deploy import interrupts
from bot_deploy.errors import InputError
from bot_deploy.machine import available_cores

from .dataset_plan import GALLERY, QUERY, TRAIN, plan_dataset
from .output_folder import atomic_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .dataset_plan import CropPlan

_BATCH_SIZE = 32  # crops that a worker process renders between two reports of progress
_MAX_IDENTITIES = 9999  # file names have four digits for the identity
_MIN_IMAGES_PER_CAMERA, _MAX_IMAGES_PER_CAMERA = 2, 100


def write_dataset(
    out: Path,
    *,
    train_identities: int,
    test_identities: int,
    images_per_camera: int,
    seed: int,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    """See `bot_deploy.synthetic.generate_dataset`."""
    _check_counts(train_identities, test_identities, images_per_camera)
    if seed < 0:
        raise InputError(f"seed is {seed}; choose 0 or more", parameter="seed")
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}; choose 1 or more", parameter="workers")
    plans = plan_dataset(train_identities, test_identities, images_per_camera, seed)
    with atomic_folder(out) as temporary:
        for folder in (TRAIN, QUERY, GALLERY):
            (temporary / folder).mkdir()
        written = 0
        for batch_size in _render_all(temporary, plans, workers or available_cores()):
            written += batch_size
            if progress is not None:
                progress(written, len(plans))


def _check_counts(train_identities: int, test_identities: int, images_per_camera: int) -> None:
    if train_identities < 1 or test_identities < 1 or train_identities + test_identities > _MAX_IDENTITIES:
        raise InputError(
            f"{train_identities} train and {test_identities} test identities; "
            f"choose at least 1 of each and at most {_MAX_IDENTITIES} in all"
        )
    if not _MIN_IMAGES_PER_CAMERA <= images_per_camera <= _MAX_IMAGES_PER_CAMERA:
        raise InputError(
            f"images_per_camera is {images_per_camera}; "
            f"choose {_MIN_IMAGES_PER_CAMERA} to {_MAX_IMAGES_PER_CAMERA}, because one of them is the query",
            parameter="images_per_camera",
        )


def _render_all(root: Path, plans: list[CropPlan], workers: int) -> Iterator[int]:
    """Render and write all crops; yields the number of crops in each finished batch."""
    if workers == 1:
        yield from (_write_batch(root, batch) for batch in _batches(plans))
        return
    context = multiprocessing.get_context("spawn")
    with interrupts.quiet_resource_tracker():
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    with pool:
        try:
            with interrupts.blocked():
                futures = [pool.submit(_write_batch, root, batch) for batch in _batches(plans)]
            for future in futures:
                yield future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _start_worker() -> None:
    import cv2

    cv2.setNumThreads(1)  # there is one process per core already
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when the one that gives it work has ended, however that was."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _write_batch(root: Path, plans: list[CropPlan]) -> int:
    for plan in plans:
        (root / plan.folder / plan.name).write_bytes(plan.render())
    return len(plans)


def _batches(plans: list[CropPlan]) -> Iterator[list[CropPlan]]:
    remaining = iter(plans)
    while batch := list(islice(remaining, _BATCH_SIZE)):
        yield batch
