"""The gallery: the crops that a query is compared with, as unit vectors beside their files.

An index keeps a gallery between runs: in a folder (local_index.py), or as a collection in Milvus (milvus.py). Both have
the methods of `Index` in interface.py.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy.datasets.names import CropMetadata, parse_name, parse_time
from bot_deploy.embedder import open_embedder
from bot_deploy.errors import BotError, InputError, RunError
from bot_deploy.files import cache_folder

from .database import DamagedError
from .image_gallery import ImageGallery
from .indexing import IndexUpdate, describe_images, index_folder
from .interface import Filters, Gallery, GalleryItem, Index, SearchHit
from .local_index import LocalIndex, is_local_index
from .metadata import read_metadata
from .milvus import MilvusIndex, is_milvus
from .renewal import renew_vectors
from .scan import check_folder, file_digest, scan_images

if TYPE_CHECKING:
    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.embedder import Embedder

__all__ = [
    "CropMetadata",
    "Filters",
    "Gallery",
    "GalleryItem",
    "ImageGallery",
    "Index",
    "IndexUpdate",
    "LocalIndex",
    "MilvusIndex",
    "SearchHit",
    "check_folder",
    "check_gallery",
    "describe_images",
    "file_digest",
    "index_folder",
    "is_empty_folder",
    "is_index",
    "is_milvus",
    "open_cached_index",
    "open_folder_gallery",
    "open_gallery",
    "open_index",
    "open_index_of_any_model",
    "open_or_create_index",
    "parse_name",
    "parse_time",
    "read_metadata",
    "renew_vectors",
    "scan_images",
]

logger = logging.getLogger(__name__)

CACHE_NAME = "galleries-1"  # the number is raised when older indexes cannot be read
MAX_UNUSED_S = 90 * 24 * 3600  # an index in the cache that is not used for so long is deleted


def is_index(address: str) -> bool:
    """Whether `address` is an index rather than a folder of crops."""
    return is_milvus(address) or is_local_index(Path(address))


def check_gallery(address: str) -> None:
    """Raises InputError when there is no gallery, folder or file at `address`; a server is not asked."""
    if is_milvus(address):
        if address.endswith(".db") and not Path(address).exists():
            raise InputError(f"{address}: no gallery there; `bot index` makes one")
    elif not is_index(address) and not Path(address).is_file():
        check_folder(Path(address))


def open_index(address: str | Path, contract: Contract) -> LocalIndex | MilvusIndex:
    """The index at `address`: a folder from `bot index`, a .db file, or milvus://host:19530/name.

    It may hold vectors of an earlier model that `contract` is compatible with.

    Raises:
        InputError: no index there, or one of another model than that of `contract`.
        RunError: it cannot be read.
    """
    gallery = _check_model(open_index_of_any_model(address), contract)
    if gallery.embedding_space != contract.embedding_space:
        logger.info(
            f"{gallery.address}: made by an earlier model, whose vectors yours can be compared with; `bot index` with "
            "your model renews them"
        )
    return gallery


def open_index_of_any_model(address: str | Path) -> LocalIndex | MilvusIndex:
    """As `open_index`, where no vector is compared with one of a model."""
    address = str(address)
    return MilvusIndex(address) if is_milvus(address) else LocalIndex(Path(address))


def open_or_create_index(address: str | Path, contract: Contract, root: str | Path) -> LocalIndex | MilvusIndex:
    """Opens the index at `address`, or makes an empty one for files below `root`; see `open_index`.

    An index of an earlier model that `contract` is compatible with becomes one of its model; `renew_vectors` embeds its
    crops again.
    """
    path, address = Path(address), str(address)
    new = (contract.embedding_space, contract.dim, Path(root).absolute())
    if is_milvus(address):
        return _take_over(_check_model(MilvusIndex(address, *new), contract), contract)
    if not is_local_index(path) and (path.is_file() or (path.is_dir() and not is_empty_folder(path))):
        raise InputError(f"{address}: holds something else; name a folder that does not exist yet, such as x.gallery")
    return _take_over(_check_model(LocalIndex(path, *new), contract), contract)


def _take_over(gallery: LocalIndex | MilvusIndex, contract: Contract) -> LocalIndex | MilvusIndex:
    """`gallery` as an index of the model of `contract`."""
    if gallery.embedding_space != contract.embedding_space:
        try:
            gallery.set_embedding_space(contract.embedding_space)
        except BaseException:
            gallery.close()
            raise
    return gallery


def _check_model(gallery: LocalIndex | MilvusIndex, contract: Contract) -> LocalIndex | MilvusIndex:
    if gallery.embedding_space in contract.searchable_spaces and gallery.dim == contract.dim:
        return gallery
    gallery.close()
    raise InputError(
        f"{gallery.address}: made by another model ({gallery.embedding_space}, {gallery.dim} dimensions; "
        f"yours is {contract.embedding_space}, {contract.dim}); give that model, "
        f"or index again: bot index {gallery.root} -o ANOTHER",
        parameter="model",
    )


def is_empty_folder(folder: Path) -> bool:
    """Whether `folder` holds nothing but hidden files, such as those of file managers."""
    return all(path.name.startswith(".") for path in folder.iterdir())


def open_folder_gallery(folder: str | Path, embedder: Embedder) -> tuple[LocalIndex, IndexUpdate]:
    """The up-to-date gallery of the crops below `folder`; its index is kept in the user's cache.

    Raises:
        InputError: no such folder, or not one usable image in it.
    """
    folder = Path(folder)
    check_folder(folder)
    contract = embedder.contract
    try:
        index = open_cached_index(folder, contract)
    except (BotError, OSError) as error:
        logger.warning(f"the index is not kept for the next run: {error}")
        temporary = Path(tempfile.mkdtemp(prefix="bot-gallery-"))
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        index = LocalIndex(temporary, contract.embedding_space, contract.dim, folder.absolute())
    try:
        update = index_folder(index, folder, embedder, refuse_contradictions=False)
        index.root = folder  # paths of matches begin as `folder` does
        return index, update  # noqa: TRY300
    except BaseException:
        index.close()
        raise


def open_gallery(address: str | Path, embedder: Embedder | None = None) -> Gallery:
    """The gallery at `address`: a folder of crops, an index that `bot index` made, a Milvus address, or one image.

    The index of a folder is kept in the user's cache: only new and changed files are embedded.

    Args:
        address: see above.
        embedder: embeds the crops, and must be the model of the index; None for the built-in model.

    Raises:
        ImageError: a file that is no usable image.
        InputError: nothing there, or a gallery of another model.
        RunError: it cannot be read.
    """
    if embedder is None:
        embedder = open_embedder()
    if is_index(str(address)):
        return open_index(str(address), embedder.contract)
    path = Path(address)
    if path.is_file():
        return ImageGallery(path, embedder)
    return open_folder_gallery(path, embedder)[0]


def open_cached_index(source: Path, contract: Contract, name: str = CACHE_NAME, root: str | None = None) -> LocalIndex:
    """The index of `source` in the folder `name` of the user's cache; a damaged one is made again.

    Its crops are in `source`, or in the folder `root` beside it in the cache.

    Raises:
        RunError: it cannot be written or read.
    """
    cache = cache_folder(name)
    identity = os.fsencode(source.resolve()) + contract.embedding_space.encode()
    # Two files of one model may have different dimensions, if the contract of one is wrong: each has its own index.
    for suffix in (b"", f" {contract.dim}".encode()):
        path = cache / hashlib.sha256(identity + suffix).hexdigest()[:16]
        crops = path / root if root else source.absolute()
        if not path.exists():
            _drop_unused(cache)
        try:
            index = LocalIndex(path, contract.embedding_space, contract.dim, crops)
        except DamagedError as error:
            logger.warning(f"the index in the cache is made again: {error}")
            shutil.rmtree(path)
            index = LocalIndex(path, contract.embedding_space, contract.dim, crops)
        if (index.embedding_space, index.dim) == (contract.embedding_space, contract.dim):
            os.utime(path)
            return index
        index.close()
    raise RunError(f"{path}: holds the vectors of another model")


def _drop_unused(cache: Path) -> None:
    for folder in cache.glob("*") if cache.is_dir() else ():
        if time.time() - folder.stat().st_mtime > MAX_UNUSED_S:
            shutil.rmtree(folder, ignore_errors=True)
