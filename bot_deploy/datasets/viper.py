"""VIPeR (Gray & Tao, 2008): 632 people, one picture from each of two cameras."""

from __future__ import annotations

import random

from .dataset import SPLITS, Crop, Dataset, File, build_dataset, number_identities

CAMERAS = {"cam_a": 1, "cam_b": 2}
SPLIT = 0  # seed of the one random half that is for training; published figures average ten such halves


def read(name: str, files: list[File]) -> Dataset | None:
    """Half of the people to train on; of the other half, camera a asks and camera b is the gallery."""
    shots = [
        (names[-1].split("_")[0], CAMERAS[names[-2]], path)
        for names, path in files
        if names[-2:-1] and names[-2] in CAMERAS
    ]
    if {camera for _, camera, _ in shots} != set(CAMERAS.values()):
        return None
    number_of = number_identities([person for person, _, _ in shots])
    everyone = sorted({person for person, _, _ in shots})
    taught = set(random.Random(SPLIT).sample(everyone, len(everyone) // 2))  # noqa: S311 - a fixed split, no secret
    splits: dict[str, list[Crop]] = {split: [] for split in SPLITS}
    for person, camera, path in shots:
        split = "train" if person in taught else "query" if camera == CAMERAS["cam_a"] else "gallery"
        splits[split].append(Crop(path, number_of(person), camera))
    return build_dataset(name, splits)
