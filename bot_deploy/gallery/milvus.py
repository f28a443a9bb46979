"""A gallery in Milvus: on a server that several machines share, or in a .db file with Milvus Lite."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, unquote, unquote_to_bytes

import numpy as np

from bot_deploy.addresses import mask_address, mask_addresses
from bot_deploy.errors import InputError, RunError, UnavailableError, on_one_line

from .interface import STORED_NAMES, GalleryItem, SearchHit, best_hits, removed_error, unit_length
from .root import current_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Unpack

    from bot_deploy.embedder import Vectors

    from .interface import Filters

# milvus://USER:PASSWORD@HOST:PORT/NAME; user and password in URL quotes, and only where the server needs them.
ADDRESS = re.compile(r"milvus://(?:([^/@:]*):([^/@]*)@)?([^/@]+)/(\w+)/?")
LITE_COLLECTION = "gallery"  # in a .db file
MAX_HITS = 16384  # Milvus returns no more at once
EXTRA_HITS = 32  # so that equal scores at the end can be put in the order of their paths
ROWS_PER_REQUEST = 1000
CONNECT_TIMEOUT_S = 10
CONNECT_FAILED, NOT_LOADED = 2, 101  # codes of pymilvus's errors
MAX_PATH_BYTES = 16384
MAX_TEXT_BYTES = 8192
# The path of a row with the gallery's root and embedding space. Its JSON is in `error`, so that every query for items
# without an error skips it.
DESCRIPTION_PATH = "/"
FIELDS = list(STORED_NAMES)
# The types of pymilvus.DataType for all fields but the path, in the order of the schema.
FIELD_TYPES = {
    **dict.fromkeys(("size", "mtime", "camera"), "INT64"),
    "time": "DOUBLE",
    **dict.fromkeys(("digest", "identity", "error"), "VARCHAR"),
}
# Milvus Lite and older servers have no missing values; these stand for None.
MISSING = {"identity": "", "camera": -1, "time": -1e300}


class MilvusIndex:
    """See `interface.Index`. Searches are exact: the index is FLAT, by cosine, over float32 vectors."""

    def __init__(self, address: str, embedding_space: str = "", dim: int = 0, root: Path | None = None) -> None:
        """Opens the collection at `address`. With `root`, a missing one is made for `embedding_space`.

        Raises:
            InputError: no such address or collection.
            RunError: no connection.
        """
        from pymilvus import MilvusClient

        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # pages about what it raises, and about clocks
        self.address = mask_address(address)  # for messages
        server = ADDRESS.fullmatch(address)
        if not server and address.startswith("milvus:"):
            raise InputError(f"{self.address}: write milvus://host:19530/name; a name has letters, digits and _ only")
        if not server and root is None and not Path(address).exists():
            raise InputError(f"{self.address}: no gallery there; `bot index` makes one")
        user, password = (unquote(part or "") for part in server.group(1, 2)) if server else ("", "")
        with self._convert_errors(), _lite_failures(self.address):
            uri = f"http://{server[3]}" if server else address
            self._client = MilvusClient(uri, user=user, password=password, timeout=CONNECT_TIMEOUT_S)
        self._name = server[4] if server else LITE_COLLECTION
        self._place = None if server else str(Path(address).absolute())  # a file can be moved
        try:
            with self._convert_errors():
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
        descriptions = self._client.query(self._name, ids=[DESCRIPTION_PATH], output_fields=["error"])
        if not descriptions:
            if root is None:
                raise InputError(f"{self.address}: a collection of another program; choose another name")
            self._describe(embedding_space, dim, root)
            descriptions = self._client.query(self._name, ids=[DESCRIPTION_PATH], output_fields=["error"])
        fields = json.loads(descriptions[0]["error"])
        self.embedding_space, self.dim, self._stored_root = (
            str(fields["space"]),
            int(fields["dim"]),
            Path(fields["root"]),
        )
        self._stored_place = fields.get("address")  # older versions did not write it
        self.root = self._stored_root
        if self._place:
            self.root = current_root(self._stored_root, self._stored_place, Path(self._place))

    def _create(self, dim: int) -> None:
        from pymilvus import DataType, MilvusClient

        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("path", DataType.VARCHAR, is_primary=True, max_length=MAX_PATH_BYTES)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        for name, kind in FIELD_TYPES.items():
            schema.add_field(name, DataType[kind], **({"max_length": MAX_TEXT_BYTES} if kind == "VARCHAR" else {}))
        index = self._client.prepare_index_params()
        index.add_index("vector", index_type="FLAT", metric_type="COSINE")
        # Strong: a search sees everything that was added before.
        self._client.create_collection(self._name, schema=schema, index_params=index, consistency_level="Strong")

    def _describe(self, embedding_space: str, dim: int, root: Path) -> None:
        description = json.dumps(
            {"space": embedding_space, "dim": dim, "root": os.fspath(root), "address": self._place}
        )
        self._client.upsert(self._name, [_entity(GalleryItem(DESCRIPTION_PATH, error=description), [0.0] * dim)])

    def set_embedding_space(self, space: str) -> None:
        raise InputError(
            f"{self.address}: made by an earlier model ({self.embedding_space}); a Milvus collection holds the vectors "
            f"of one model, and yours is {space}: index again into another collection",
            parameter="model",
        )

    def outdated(self) -> list[str]:
        return []

    def replace_outdated(self, paths: Sequence[str], vectors: Vectors) -> int:  # noqa: ARG002 - there is none
        return 0

    def __len__(self) -> int:
        return self.count()

    def count(self, **filters: Unpack[Filters]) -> int:
        with self._convert_errors():
            rows = self._client.query(self._name, filter=_filter_expression(filters), output_fields=["count(*)"])
        return int(rows[0]["count(*)"])

    def items(self) -> Iterator[GalleryItem]:
        return iter(self._items(f'path != "{DESCRIPTION_PATH}"'))

    def broken(self) -> list[GalleryItem]:
        return sorted(self._items(f'error != "" and path != "{DESCRIPTION_PATH}"'))

    def _items(self, condition: str) -> list[GalleryItem]:
        with self._convert_errors():
            pages = self._client.query_iterator(
                self._name, batch_size=ROWS_PER_REQUEST, filter=condition, output_fields=FIELDS
            )
            items: list[GalleryItem] = []
            while page := pages.next():
                items += map(_item, page)
            pages.close()
        return items

    def add(self, items: Sequence[GalleryItem], vectors: Vectors) -> None:
        with self._convert_errors():
            for start in range(0, len(items), ROWS_PER_REQUEST):
                batch = zip(
                    items[start : start + ROWS_PER_REQUEST],
                    vectors[start : start + ROWS_PER_REQUEST].tolist(),
                    strict=True,
                )
                self._client.upsert(self._name, [_entity(item, vector) for item, vector in batch])

    def update_metadata(self, items: Sequence[GalleryItem]) -> None:
        with self._convert_errors():
            for start in range(0, len(items), ROWS_PER_REQUEST):
                batch = {_key(item.path): item for item in items[start : start + ROWS_PER_REQUEST]}
                # Older servers can only replace whole rows.
                rows = self._client.query(self._name, ids=list(batch), output_fields=["vector"])
                self._client.upsert(self._name, [_entity(batch[row["path"]], list(row["vector"])) for row in rows])

    def remove(self, paths: Sequence[str]) -> None:
        with self._convert_errors():
            for start in range(0, len(paths), ROWS_PER_REQUEST):
                self._client.delete(self._name, ids=[_key(path) for path in paths[start : start + ROWS_PER_REQUEST]])

    def search(self, query: Vectors, top: int, **filters: Unpack[Filters]) -> list[SearchHit]:
        if query.shape != (self.dim,):
            raise InputError(f"query {query.shape}: the vectors of {self.address} have {self.dim} numbers")
        if top > MAX_HITS:
            raise InputError(f"{self.address}: Milvus finds at most {MAX_HITS} items at once; give a lower top")
        if top < 1 or not len(self):
            return []
        limit = min(top + EXTRA_HITS, MAX_HITS)
        with self._convert_errors():
            (rows,) = self._client.search(
                self._name, [query.tolist()], limit=limit, filter=_filter_expression(filters), output_fields=FIELDS
            )
        return best_hits([SearchHit(_item(row["entity"]), float(row["distance"])) for row in rows], top)

    def vectors(self, paths: Sequence[str]) -> Vectors:
        vectors = np.empty((len(paths), self.dim), np.float32)
        with self._convert_errors():
            for start in range(0, len(paths), ROWS_PER_REQUEST):
                keys = [_key(path) for path in paths[start : start + ROWS_PER_REQUEST]]
                rows = self._client.query(self._name, ids=keys, output_fields=["vector", "error"])
                vector_of = {row["path"]: row["vector"] for row in rows if not row["error"]}
                for index, key in enumerate(keys, start):
                    if key not in vector_of:
                        raise removed_error(self.address, paths[index])
                    vectors[index] = vector_of[key]
        return unit_length(vectors)

    def has_identity(self, identity: str) -> bool:
        with self._convert_errors():
            return bool(
                self._client.query(self._name, filter=_identity_expression(identity), output_fields=["camera"], limit=1)
            )

    def count_identity(self, identity: str) -> int:
        with self._convert_errors():
            rows = self._client.query(self._name, filter=_identity_expression(identity), output_fields=["count(*)"])
        return int(rows[0]["count(*)"])

    def set_root(self, root: Path) -> None:
        if (root, self._place) != (self._stored_root, self._stored_place):
            with self._convert_errors():
                self._describe(self.embedding_space, self.dim, root)
            self._stored_root, self._stored_place = root, self._place
        self.root = root

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _convert_errors(self) -> Iterator[None]:
        """Turns errors of Milvus into RunError about this gallery; UnavailableError, if a later try can succeed."""
        import grpc
        from pymilvus import MilvusException

        try:
            yield
        except MilvusException as error:
            code, reason = error.code, error.message.strip().partition("\n")[0]
        except grpc.RpcError as error:  # pymilvus passes some on
            code, reason = error.code(), on_one_line(error)
        else:
            return
        if code == NOT_LOADED:  # the server was restarted
            with contextlib.suppress(MilvusException, grpc.RpcError):
                self._client.load_collection(self._name)
        away = code in {CONNECT_FAILED, NOT_LOADED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
        raise (UnavailableError if away else RunError)(f"{self.address}: {mask_addresses(reason)}")


def is_milvus(address: str) -> bool:
    """Whether `address` is a server's or a .db file."""
    return address.startswith("milvus:") or address.endswith(".db")


def _key(path: str) -> str:
    """`path` in URL quotes: pages of pymilvus end at quotation marks, and a file name need not be text."""
    return quote(os.fsencode(path))


@contextlib.contextmanager
def _lite_failures(address: str) -> Iterator[None]:
    """Raises why Milvus Lite did not start, which it only logs, as RunError about `address`."""
    failures: list[BaseException] = []

    def keep(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1]:
            failures.append(record.exc_info[1])
        return False

    logger = logging.getLogger("milvus_lite.server_manager")
    logger.addFilter(keep)
    try:
        yield
    except Exception:
        if not failures:
            raise
        if type(failures[0]).__name__ == "DataDirLockedError":  # not in older versions
            reason = "another process has it open; Milvus Lite serves one at a time, a Milvus server many"
        else:
            reason = str(failures[0]).partition("\n")[0] or type(failures[0]).__name__
        raise RunError(f"{address}: {reason}") from None
    finally:
        logger.removeFilter(keep)


def _entity(item: GalleryItem, vector: list[float]) -> dict[str, Any]:
    fields = zip(STORED_NAMES, item, strict=True)
    values = {name: MISSING[name] if value is None else value for name, value in fields}
    return {**values, "path": _key(item.path), "digest": item.digest.hex(), "vector": vector}


def _item(entity: dict[str, Any]) -> GalleryItem:
    values: dict[str, Any] = {name: None if entity[name] == MISSING.get(name) else entity[name] for name in FIELDS}
    values["path"] = os.fsdecode(unquote_to_bytes(values["path"]))
    values["digest"] = bytes.fromhex(values["digest"])
    return GalleryItem(*values.values())


def _identity_expression(identity: str) -> str:
    return f'error == "" and identity == {json.dumps(identity, ensure_ascii=False)}'


def _filter_expression(filters: Filters) -> str:
    conditions = ['error == ""']
    cameras, excluded = filters.get("cameras"), filters.get("exclude_cameras")
    if cameras is not None:
        conditions.append(f"camera in {list(map(int, cameras))}")
    if excluded:
        conditions.append(f"camera not in {list(map(int, excluded))}")
    since, until = filters.get("since"), filters.get("until")
    if since is not None or until is not None:
        conditions.append(f"time > {MISSING['time']!r}")
    if since is not None:
        conditions.append(f"time >= {float(since)!r}")
    if until is not None:
        conditions.append(f"time <= {float(until)!r}")
    return " and ".join(conditions)
