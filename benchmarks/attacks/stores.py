"""Damaged galleries: the database, the vectors and the graph of a store."""

from __future__ import annotations

import shutil
import sqlite3
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.gallery import index_folder, open_index

from .harness import Fell, bot, refuses
from .material import CONTRACT, draw_crop
from .mutate import damage, odd_value

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from .material import Material

COMMAND_EVERY = 10


def copy_of(material: Material) -> Path:
    path = material.empty_scratch() / "people.gallery"
    shutil.copytree(material.gallery, path)
    return path


def database(rng: random.Random, material: Material) -> bool:
    """Damages the bytes of the SQLite file."""
    store = copy_of(material)
    path = store / "gallery.sqlite"
    path.write_bytes(damage(path.read_bytes(), rng))
    return use(rng, store, material)


def rows(rng: random.Random, material: Material) -> bool:
    """Puts odd values into the tables, as another program could."""
    store = copy_of(material)
    connection = sqlite3.connect(store / "gallery.sqlite")
    tables = {"gallery": "format space dim root generation length alive", "place": "address"}
    tables["rows"] = "slot path size mtime digest identity camera time error"
    for _ in range(rng.randint(1, 2)):
        table = rng.choice(("gallery", "rows", "rows", "place"))
        column = rng.choice(tables[table].split())
        value = odd_value(rng)
        if not isinstance(value, str | int | float | None) or (isinstance(value, int) and abs(value) >= 2**63):
            value = rng.choice((b"\xff\x00", "9" * 30, 2**62))
        where = "" if table != "rows" or rng.random() < 0.3 else f"WHERE path LIKE '%{rng.randrange(5)}%'"
        try:
            connection.execute(f"UPDATE {table} SET {column} = ? {where}", (value,))
            if rng.random() < 0.1:
                connection.execute(rng.choice((f"DELETE FROM {table}", f"DROP TABLE {table}")))
        except (sqlite3.Error, UnicodeError):
            continue
    connection.commit()
    connection.close()
    return use(rng, store, material)


def vectors(rng: random.Random, material: Material) -> bool:
    """Damages the vectors, or takes a file of the store away."""
    store = copy_of(material)
    path = store / "vectors-1.f16"
    way = rng.choice(("damage", "damage", "nan", "zero", "missing", "no database"))
    if way == "damage":
        path.write_bytes(damage(path.read_bytes(), rng))
    elif way in {"nan", "zero"}:
        data = bytearray(path.read_bytes())
        start = rng.randrange(4096, len(data) - 200) & ~1
        data[start : start + 200] = (b"\xff\x7f" if way == "nan" else b"\0\0") * 100
        path.write_bytes(data)
    else:
        (path if way == "missing" else store / "gallery.sqlite").unlink()
    return use(rng, store, material)


def graph(rng: random.Random, material: Material) -> bool:
    """Damages the HNSW graph."""
    if find_spec("faiss") is None:
        return True
    whole = material.folder / "hnsw.gallery"
    if not whole.exists():
        shutil.copytree(material.gallery, whole)
        with open_index(str(whole), CONTRACT) as gallery:
            gallery.build_hnsw()  # type: ignore[union-attr]
    store = material.empty_scratch() / "people.gallery"
    shutil.copytree(whole, store)
    (path,) = store.glob("hnsw-*")
    path.write_bytes(damage(path.read_bytes(), rng))
    return use(rng, store, material)


def use(rng: random.Random, store: Path, material: Material) -> bool:
    """Searches the store, updates it and searches again."""
    query = min(material.crops.iterdir())
    model = ("--model", material.model, "--device", "cpu", "--threads", 1)
    if rng.random() < 1 / COMMAND_EVERY:
        code = bot("match", query, store, "--json", *model).code
        bot("match", query, store, *model)
        bot("index", material.crops, "-o", store, "--json", *model)
        return code != 0
    gallery = refuses(lambda: open_index(str(store), CONTRACT))
    if gallery is None:
        return True
    refused = False
    with gallery:
        vector = material.embedder.embed(draw_crop(1, 1))[0]
        for _ in range(2):
            hits = refuses(lambda: gallery.search(vector, 5))
            refused |= hits is None
            if hits and not all(np.isfinite(hit.score) and -1 <= hit.score <= 1 for hit in hits):
                raise Fell("a score that is no cosine")
            if hits:
                found = refuses(lambda: gallery.vectors([hit.item.path for hit in hits]))  # noqa: B023
                if found is not None and not np.allclose(np.linalg.norm(found, axis=1), 1, atol=0.02):
                    raise Fell("a vector that is no unit vector")
            refuses(lambda: (len(gallery), list(gallery.items()), gallery.broken(), gallery.count(cameras=[1])))
            refused |= refuses(lambda: index_folder(gallery, material.crops, material.embedder)) is None
    return refused


ATTACKS = {"database": database, "rows": rows, "vectors": vectors, "graph": graph}
