"""VIPeR (Gray & Tao, 2008): 632 people, one image from each of two cameras."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from .dataset import Crop, Dataset, LayoutMismatch, build_dataset, empty_splits, image_files, number_identities

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .dataset import File

CAMERAS = {"cam_a": 1, "cam_b": 2}
SPLIT_SEED = 0  # of one random half to train on; published figures are the mean over ten such halves


def read(source: str, files: Sequence[File]) -> Dataset:
    """Half of the people to train on; of the others, camera a is query and camera b is gallery.

    See `datasets.READERS`.
    """
    shots = [
        (names[-1].split("_")[0], CAMERAS[names[-2]], path)
        for names, path in image_files(files)
        if len(names) > 1 and names[-2] in CAMERAS
    ]
    if {camera for _, camera, _ in shots} != set(CAMERAS.values()):
        raise LayoutMismatch("no images in cam_a/ or none in cam_b/")
    number_of = number_identities([person for person, _, _ in shots])
    people = sorted({person for person, _, _ in shots})
    train_people = set(random.Random(SPLIT_SEED).sample(people, len(people) // 2))  # noqa: S311 - no secret
    splits = empty_splits()
    for person, camera, path in shots:
        test_split = "query" if camera == CAMERAS["cam_a"] else "gallery"
        splits["train" if person in train_people else test_split].append(
            Crop(path, number_of(person), camera, identity_name=person)
        )
    return build_dataset(source, splits)
