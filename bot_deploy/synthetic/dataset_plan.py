"""Plans the data set: which person each camera captures, and the file name of every crop, as in Market-1501."""
# ruff: noqa: PLR2004 - lengths and probabilities read best in place

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .appearance import Person, sample_group, sample_person
from .cameras import CAMERAS, encode_jpeg
from .crop_renderer import render_crop, sample_placement

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
DEFAULT_TRAIN_IDENTITIES, DEFAULT_TEST_IDENTITIES = 120, 60

# Random generators are seeded with [seed, number, ...]. Distractors and junk have numbers of their own there, while
# their file names say 0000 and -1. The last two numbers belong to no person, but to a use of random numbers.
_FIRST_DISTRACTOR, _FIRST_JUNK, _PASSERBY_SEED, _PEOPLE_SEED = 100_000, 200_000, 300_000, 400_000

# The groups of people that are sampled independently.
TRAIN_PEOPLE, TEST_PEOPLE, DISTRACTORS, DISTRACTORS_IN_TEST_COLOURS = range(4)


@dataclass(frozen=True)
class CropPlan:
    """One crop to render: image `index` of a person from `camera` (0 to 5)."""

    folder: str
    name: str
    person: Person
    passerby: Person | None
    seed: int
    person_number: int  # seeds the random numbers; the file name says 0000 or -1 for distractors and junk
    camera: int
    index: int

    def render(self) -> bytes:
        """Render the crop as JPEG. The bytes depend on this plan alone."""
        camera = CAMERAS[self.camera]
        placement = sample_placement(camera, np.random.default_rng([self.seed, self.person_number, self.camera]))
        rng = np.random.default_rng([self.seed, self.person_number, self.camera, self.index])
        picture = render_crop(
            self.person,
            camera,
            placement.after_steps(self.index),
            rng,
            passerby=self.passerby,
            junk=self.person_number >= _FIRST_JUNK,
        )
        return encode_jpeg(camera, picture)


def sample_people(seed: int, group: int, count: int) -> list[Person]:
    """Sample `count` people, in groups of three or four who wear the same colours.

    `group` is TRAIN_PEOPLE, TEST_PEOPLE or DISTRACTORS.
    """
    rng = np.random.default_rng([seed, _PEOPLE_SEED, group])
    people: list[Person] = []
    while len(people) < count:
        people.extend(sample_group(rng, int(rng.integers(3, 5))))
    return people[:count]


def plan_dataset(train_identities: int, test_identities: int, images_per_camera: int, seed: int) -> list[CropPlan]:
    """Plan every crop of the data set, in a fixed order."""
    train, test = sample_people(seed, TRAIN_PEOPLE, train_identities), sample_people(seed, TEST_PEOPLE, test_identities)
    distractors = _sample_distractors(seed, test)
    plans: list[CropPlan] = []

    def add(folder: str, label: str, person: Person, *, number: int, camera: int, index: int) -> None:
        rng = np.random.default_rng([seed, number, camera, index, _PASSERBY_SEED])
        # Any number that differs between crops of one person and camera.
        frame = 100 + 37 * (number % 1000) + 12 * index + 7 * camera
        passerby = distractors[int(rng.integers(len(distractors)))] if rng.random() < 0.1 else None
        name = f"{label}_c{camera + 1}s1_{frame:06d}_{1 + int(rng.integers(4)):02d}.jpg"
        plans.append(CropPlan(folder, name, person, passerby, seed, number, camera, index))

    for first_identity, people in ((1, train), (1 + train_identities, test)):
        is_train = people is train
        for identity, person in enumerate(people, start=first_identity):
            rng = np.random.default_rng([seed, identity])
            camera_count = int(rng.integers(3, len(CAMERAS) + 1))
            for camera in sorted(rng.choice(len(CAMERAS), size=camera_count, replace=False).tolist()):
                query_index = -1 if is_train else int(rng.integers(images_per_camera))
                for index in range(images_per_camera):
                    folder = TRAIN if is_train else QUERY if index == query_index else GALLERY
                    add(folder, f"{identity:04d}", person, number=identity, camera=camera, index=index)
    for number, person in enumerate(distractors):
        for index in range(images_per_camera):
            camera = (number + index) % len(CAMERAS)
            add(GALLERY, "0000", person, number=_FIRST_DISTRACTOR + number, camera=camera, index=index)
    for number in range(max(6, test_identities)):
        person, camera = test[number % test_identities], number % len(CAMERAS)
        add(GALLERY, "-1", person, number=_FIRST_JUNK + number, camera=camera, index=0)
    return plans


def _sample_distractors(seed: int, test: list[Person]) -> list[Person]:
    """Sample people who are in the gallery and not in `test`; half of them wear the colours of test identities."""
    half = max(2, len(test) // 4)
    return sample_people(seed, DISTRACTORS, half) + [
        sample_person(
            np.random.default_rng([seed, _PEOPLE_SEED, DISTRACTORS_IN_TEST_COLOURS, number]),
            test[number % len(test)].palette,
        )
        for number in range(half)
    ]
