"""The same store in Milvus: on a server that many machines share, or in a .db file through Milvus Lite."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, unquote_to_bytes

import numpy as np

from bot_deploy.errors import InputError, RunError

from .interface import GalleryItem, SearchHit, changed, normalised, ranked

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Unpack

    from bot_deploy.embedder import Vectors

    from .interface import Filters

ADDRESS = re.compile(r"milvus://([^/]+)/(\w+)/?")
LITE = "gallery"  # the collection in a .db file
MOST = 16384  # rows that Milvus returns at once
BATCH = 1000
# Milvus Lite and older servers know no missing values.
NO_CAMERA, NO_TIME = -1, -1e300
# One row, which no search returns, holds what a collection has no place for.
ABOUT = "/"
FIELDS = ["path", "size", "mtime", "digest", "identity", "camera", "time", "error"]


class Milvus:
    """See `rows.Gallery`. Exact: the index is FLAT, by cosine; scores are of float32 vectors."""

    def __init__(self, address: str, embedding_space: str = "", dim: int = 0, root: Path | None = None) -> None:
        """Opens the collection at `address`, or makes one for `embedding_space` where none is and `root` is given.

        Raises:
            InputError: no such address or collection.
            RunError: no connection.
        """
        from pymilvus import MilvusClient

        self.address = address
        server = ADDRESS.fullmatch(address)
        if not server and address.startswith("milvus:"):
            raise InputError(f"{address}: write milvus://host:19530/name; a name has letters, digits and _ only")
        if not server and root is None and not Path(address).exists():
            raise InputError(f"{address}: no gallery there; `bot index` makes one")
        with self._explained():
            self._client = MilvusClient(f"http://{server[1]}" if server else address, timeout=10)
        self._name = server[2] if server else LITE
        # At every listing it warns that Lite, and servers before 2.5, have no clock of their own.
        logging.getLogger("pymilvus").setLevel(logging.ERROR)
        try:
            with self._explained():
                self._load(embedding_space, dim, root)
        except BaseException:
            self._client.close()
            raise

    def _load(self, embedding_space: str, dim: int, root: Path | None) -> None:
        if not self._client.has_collection(self._name):
            if root is None:
                raise InputError(f"{self.address}: no gallery there; `bot index` makes one")
            self._create(dim)
        self._client.load_collection(self._name)
        about = self._client.query(self._name, ids=[ABOUT], output_fields=["error"])
        if not about:
            if root is None:
                raise InputError(f"{self.address}: no gallery of ours; `bot index` makes one, under another name")
            self._describe(embedding_space, dim, root)
            about = self._client.query(self._name, ids=[ABOUT], output_fields=["error"])
        fields = json.loads(about[0]["error"])
        self.embedding_space, self.dim, self.root = str(fields["space"]), int(fields["dim"]), Path(fields["root"])

    def _create(self, dim: int) -> None:
        from pymilvus import DataType, MilvusClient

        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("path", DataType.VARCHAR, is_primary=True, max_length=16384)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        for name in ("size", "mtime", "camera"):
            schema.add_field(name, DataType.INT64)
        schema.add_field("time", DataType.DOUBLE)
        for name in ("digest", "identity", "error"):
            schema.add_field(name, DataType.VARCHAR, max_length=8192)
        index = self._client.prepare_index_params()
        index.add_index("vector", index_type="FLAT", metric_type="COSINE")
        # Strong: who searches sees what was added before.
        self._client.create_collection(self._name, schema=schema, index_params=index, consistency_level="Strong")

    def _describe(self, embedding_space: str, dim: int, root: Path) -> None:
        about = json.dumps({"space": embedding_space, "dim": dim, "root": os.fspath(root)})
        self._client.upsert(self._name, [_entity(GalleryItem(ABOUT, error=about), [0.0] * dim)])

    def __len__(self) -> int:
        return self.count()

    def count(self, **filters: Unpack[Filters]) -> int:
        with self._explained():
            found = self._client.query(self._name, filter=_where(filters), output_fields=["count(*)"])
        return int(found[0]["count(*)"])

    def items(self) -> Iterator[GalleryItem]:
        return iter(self._rows(f'path != "{ABOUT}"'))

    def broken(self) -> list[GalleryItem]:
        return sorted(self._rows(f'error != "" and path != "{ABOUT}"'))

    def _rows(self, condition: str) -> list[GalleryItem]:
        with self._explained():
            pages = self._client.query_iterator(self._name, batch_size=BATCH, filter=condition, output_fields=FIELDS)
            rows: list[GalleryItem] = []
            while page := pages.next():
                rows += map(_row, page)
            pages.close()
        return rows

    def add(self, rows: Sequence[GalleryItem], vectors: Vectors) -> None:
        with self._explained():
            for start in range(0, len(rows), BATCH):
                batch = zip(rows[start : start + BATCH], vectors[start : start + BATCH].tolist(), strict=True)
                self._client.upsert(self._name, [_entity(row, vector) for row, vector in batch])

    def update_metadata(self, rows: Sequence[GalleryItem]) -> None:
        with self._explained():
            for start in range(0, len(rows), BATCH):
                batch = {_key(row.path): row for row in rows[start : start + BATCH]}
                # Older servers replace whole rows only.
                found = self._client.query(self._name, ids=list(batch), output_fields=["vector"])
                self._client.upsert(self._name, [_entity(batch[one["path"]], list(one["vector"])) for one in found])

    def remove(self, paths: Sequence[str]) -> None:
        with self._explained():
            for start in range(0, len(paths), BATCH):
                self._client.delete(self._name, ids=[_key(path) for path in paths[start : start + BATCH]])

    def search(self, query: Vectors, top: int, **filters: Unpack[Filters]) -> list[SearchHit]:
        if query.shape != (self.dim,):
            raise InputError(f"query {query.shape}: the vectors of {self.address} have {self.dim} numbers")
        if top > MOST:
            raise InputError(f"{self.address}: Milvus finds at most {MOST} rows at once; ask for fewer")
        if top < 1 or not len(self):
            return []
        # Some more, so that equal ones at the end can be put in order of path.
        wanted = min(top + 32, MOST)
        with self._explained():
            (found,) = self._client.search(
                self._name, [query.tolist()], limit=wanted, filter=_where(filters), output_fields=FIELDS
            )
        return ranked([SearchHit(_row(one["entity"]), float(one["distance"])) for one in found], top)

    def vectors(self, paths: Sequence[str]) -> Vectors:
        vectors = np.empty((len(paths), self.dim), np.float32)
        with self._explained():
            for start in range(0, len(paths), BATCH):
                keys = [_key(path) for path in paths[start : start + BATCH]]
                found = self._client.query(self._name, ids=keys, output_fields=["vector", "error"])
                known = {one["path"]: one["vector"] for one in found if not one["error"]}
                for row, key in enumerate(keys, start):
                    if key not in known:
                        raise changed(self.address, paths[row])
                    vectors[row] = known[key]
        return normalised(vectors)

    def has_identity(self, identity: str) -> bool:
        condition = f'error == "" and identity == {json.dumps(identity, ensure_ascii=False)}'
        with self._explained():
            return bool(self._client.query(self._name, filter=condition, output_fields=["camera"], limit=1))

    def set_root(self, root: Path) -> None:
        if root != self.root:
            with self._explained():
                self._describe(self.embedding_space, self.dim, root)
            self.root = root

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        from pymilvus import MilvusException

        try:
            yield
        except MilvusException as error:
            raise RunError(f"{self.address}: {error.message.strip().partition(chr(10))[0]}") from None


def is_milvus(address: str) -> bool:
    return address.startswith("milvus:") or address.endswith(".db")


def _key(path: str) -> str:
    """`path` as Milvus can hold it: pymilvus's pages end at quotes, and the name of a file need not be text."""
    return quote(os.fsencode(path))


def _entity(row: GalleryItem, vector: list[float]) -> dict[str, Any]:
    return {
        **row._asdict(),
        "path": _key(row.path),
        "vector": vector,
        "digest": row.digest.hex(),
        "identity": row.identity or "",
        "camera": NO_CAMERA if row.camera is None else row.camera,
        "time": NO_TIME if row.time is None else row.time,
    }


def _row(entity: dict[str, Any]) -> GalleryItem:
    fields = {name: entity[name] for name in FIELDS}
    fields["path"] = os.fsdecode(unquote_to_bytes(fields["path"]))
    fields["digest"] = bytes.fromhex(fields["digest"])
    fields["identity"] = fields["identity"] or None
    fields["camera"] = None if fields["camera"] == NO_CAMERA else fields["camera"]
    fields["time"] = None if fields["time"] == NO_TIME else fields["time"]
    return GalleryItem(**fields)


def _where(filters: Filters) -> str:
    conditions = ['error == ""']
    cameras, excluded = filters.get("cameras"), filters.get("exclude_cameras")
    if cameras is not None:
        conditions.append(f"camera in {list(map(int, cameras))}")
    if excluded:
        conditions.append(f"camera not in {list(map(int, excluded))}")
    since, until = filters.get("since"), filters.get("until")
    if since is not None or until is not None:
        conditions.append(f"time > {NO_TIME!r}")
    if since is not None:
        conditions.append(f"time >= {float(since)!r}")
    if until is not None:
        conditions.append(f"time <= {float(until)!r}")
    return " and ".join(conditions)
