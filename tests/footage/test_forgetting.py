"""Forgetting a person: nothing of them is left on the disk, and nothing of the user's is deleted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.random_gallery import contract

from bot_deploy.errors import InputError
from bot_deploy.footage.forgetting import forget_person
from bot_deploy.gallery import GalleryItem, LocalIndex, open_or_create_index


def test_nothing_is_left_of_a_person(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    out, outside = tmp_path / "people.gallery", tmp_path / "mine.png"
    index = open_or_create_index(out, contract(), out / "crops")
    assert isinstance(index, LocalIndex)
    vectors = rng.normal(size=(60, index.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = ["Anna Secretname", "Bob"]
    items = []
    for place in range(60):
        name = names[place % 5 > 0]
        path = out / "crops" / name / f"{place:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if place:
            path.write_bytes(rng.bytes(200))
        items.append(GalleryItem(f"{name}/{place:02d}.png", 200, identity=name, camera=1, time=1e9))
    outside.write_bytes(b"of the user")
    items[0] = items[0]._replace(path="../../mine.png")
    hers = [place for place, item in enumerate(items) if item.identity == names[0]]
    with index:
        for start in (0, 30):
            index.add(items[start : start + 30], vectors[start : start + 30])
        secrets = [vectors[place].astype(np.float16).tobytes() for place in hers]
        secrets += [(out / "crops" / items[place].path).read_bytes() for place in hers[1:]]
        secrets += [names[0].encode()]

        def found() -> list[bool]:
            files = [path for path in out.rglob("*") if path.is_file()]
            data = b"".join(str(path).encode() + path.read_bytes() for path in files)
            return [secret in data for secret in secrets]

        assert all(found())
        forgotten = forget_person(index, names[0])
        assert (forgotten.crops, forgotten.appearances, len(forgotten.left_files)) == (12, 0, 1)
        assert not any(found())
        assert outside.read_bytes() == b"of the user"
        assert not (out / "crops" / names[0]).exists()
        kept = [place for place in range(60) if place not in hers]
        np.testing.assert_allclose(index.vectors([items[place].path for place in kept]), vectors[kept], atol=1e-3)
        with pytest.raises(InputError, match="nobody is called Anna"):
            forget_person(index, names[0])
    assert not any(found())
    with LocalIndex(out) as index:
        forget_person(index, "Bob")
        assert len(index) == 0
