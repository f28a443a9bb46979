"""The whole set: who is seen where, drawn by several processes, written in Market-1501 layout."""
# ruff: noqa: PLR2004 - measures and odds read best in place

from __future__ import annotations

import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.errors import InputError
from bot_deploy.machine import available_cores

from .cameras import CAMERAS, encode
from .crops import render_crop, sample_track
from .folder import whole_folder
from .people import Person, sample_group, sample_person

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
# People of the gallery who are nobody's match have their own numbers for the dice, and 0000 or -1 in the file name.
_DISTRACTOR, _JUNK, _PASSER, _CAST = 100_000, 200_000, 300_000, 400_000
_BATCH = 32
DEFAULT_TRAIN, DEFAULT_TEST = 120, 60  # identities, unless asked otherwise
NAME = re.compile(r"(\d{4}|-1)_c[1-6]s1_\d{6}_\d{2}\.jpg")


@dataclass(frozen=True)
class Shot:
    """One file to write: the person `identity`, for the `index`-th time before camera `camera` (0 to 5)."""

    folder: str
    name: str
    person: Person
    passer: Person | None
    seed: int
    identity: int
    camera: int
    index: int

    def render(self) -> bytes:
        """The crop as a JPEG; it depends on this shot alone."""
        camera = CAMERAS[self.camera]
        track = sample_track(camera, np.random.default_rng([self.seed, self.identity, self.camera]))
        rng = np.random.default_rng([self.seed, self.identity, self.camera, self.index])
        junk = self.identity >= _JUNK
        picture = render_crop(self.person, camera, track.later(self.index), rng, passer=self.passer, junk=junk)
        return encode(camera, picture)


def cast(seed: int, split: int, count: int) -> list[Person]:
    """`count` people in groups of three or four who wear the same colours."""
    rng = np.random.default_rng([seed, _CAST, split])
    people: list[Person] = []
    while len(people) < count:
        people.extend(sample_group(rng, int(rng.integers(3, 5))))
    return people[:count]


def _name(identity: str, camera: int, frame: int, box: int) -> str:
    return f"{identity}_c{camera + 1}s1_{frame:06d}_{box:02d}.jpg"


def plan(train_identities: int, test_identities: int, images_per_camera: int, seed: int) -> list[Shot]:
    """Every file of the set, in a fixed order."""
    train, test = cast(seed, 0, train_identities), cast(seed, 1, test_identities)
    half = max(2, test_identities // 4)
    # Half of the strangers wear what the people searched for wear.
    strangers = cast(seed, 2, half) + [
        sample_person(np.random.default_rng([seed, _CAST, 3, number]), test[number % test_identities].palette)
        for number in range(half)
    ]
    shots: list[Shot] = []

    def add(folder: str, label: str, person: Person, *, identity: int, camera: int, index: int) -> None:
        dice = np.random.default_rng([seed, identity, camera, index, _PASSER])
        frame = 100 + 37 * (identity % 1000) + 12 * index + 7 * camera
        passer = strangers[int(dice.integers(len(strangers)))] if dice.random() < 0.1 else None
        name = _name(label, camera, frame, 1 + int(dice.integers(4)))
        shots.append(Shot(folder, name, person, passer, seed, identity, camera, index))

    for offset, people in ((1, train), (1 + train_identities, test)):
        for identity, person in enumerate(people, start=offset):
            dice = np.random.default_rng([seed, identity])
            size = int(dice.integers(3, len(CAMERAS) + 1))
            seen = sorted(dice.choice(len(CAMERAS), size=size, replace=False).tolist())
            for camera in seen:
                asked = int(dice.integers(images_per_camera)) if offset > 1 else -1
                for index in range(images_per_camera):
                    folder = TRAIN if offset == 1 else QUERY if index == asked else GALLERY
                    add(folder, f"{identity:04d}", person, identity=identity, camera=camera, index=index)
    for number, person in enumerate(strangers):
        for index in range(images_per_camera):
            add(
                GALLERY,
                "0000",
                person,
                identity=_DISTRACTOR + number,
                camera=(number + index) % len(CAMERAS),
                index=index,
            )
    for number in range(max(6, test_identities)):
        person = test[number % test_identities]
        add(GALLERY, "-1", person, identity=_JUNK + number, camera=number % len(CAMERAS), index=0)
    return shots


def _start_worker() -> None:
    import cv2

    cv2.setNumThreads(1)  # one process per core already uses every core


def _write(root: Path, shots: list[Shot]) -> int:
    for shot in shots:
        (root / shot.folder / shot.name).write_bytes(shot.render())
    return len(shots)


def _batches(shots: list[Shot]) -> Iterator[list[Shot]]:
    remaining = iter(shots)
    while batch := list(islice(remaining, _BATCH)):
        yield batch


def _check_counts(train_identities: int, test_identities: int, images_per_camera: int) -> None:
    if train_identities < 1 or test_identities < 1 or train_identities + test_identities > 9999:
        raise InputError(
            f"{train_identities} train and {test_identities} test identities; "
            "choose at least 1 of each and at most 9999 in all"
        )
    if not 2 <= images_per_camera <= 100:
        raise InputError(f"images_per_camera is {images_per_camera}; choose 2 to 100, one of them is the query")


def write_set(
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
    if seed < 0 or (workers is not None and workers < 1):
        raise InputError(f"seed is {seed} and workers is {workers}; choose a seed from 0 and at least one worker")
    shots = plan(train_identities, test_identities, images_per_camera, seed)
    workers = workers or available_cores()
    with whole_folder(out) as half:
        for folder in (TRAIN, QUERY, GALLERY):
            (half / folder).mkdir()
        done = 0
        for count in _drawn(half, shots, workers):
            done += count
            if progress is not None:
                progress(done, len(shots))


def _drawn(root: Path, shots: list[Shot], workers: int) -> Iterator[int]:
    """Draw and write all shots; yields how many each finished batch held."""
    if workers == 1:
        yield from (_write(root, batch) for batch in _batches(shots))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        try:
            for future in [pool.submit(_write, root, batch) for batch in _batches(shots)]:
                yield future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
