"""Queries: images of people to search for, with their embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy import images
from bot_deploy.datasets.names import CropMetadata, parse_name
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bot_deploy.embedder import Embedder, Vectors
    from bot_deploy.errors import ImageError

ARRAY = Path("<array>")  # stands for the path of an image that is not a file
NO_METADATA = CropMetadata()


@dataclass(frozen=True, eq=False)
class Query:
    """A query: one image or several images of one person, with its embedding."""

    path: Path  # the image, or the folder of `shots`
    vector: Vectors  # [D], unit length
    metadata: CropMetadata = NO_METADATA  # from the file's name; the identity may be unknown to the gallery
    folder: str | None = None  # name of its folder: an identity if the gallery has an identity of that name
    cameras: tuple[int, ...] = ()  # numbers of the cameras of its images
    shots: tuple[Path, ...] = ()  # images of a multi-shot query
    shot_cameras: tuple[int | None, ...] = ()  # of each of these images; None: unknown
    picture: images.Pixels | None = None  # of a query that is no file, uint8 RGB [H, W, 3]


def read_query(image: images.Pixels | str | Path, embedder: Embedder) -> Query:
    """A query for one image: a file, or an array uint8 RGB [H, W, 3].

    Raises:
        ImageError: it is not a usable image.
    """
    if isinstance(image, str | Path):
        (vector,) = embedder.embed([images.read_image(image)])
        return _query(Path(image), vector)
    (vector,) = embedder.embed([image])
    return Query(ARRAY, vector, picture=image)


def read_queries(source: Path, embedder: Embedder) -> tuple[list[Query], dict[Path, ImageError]]:
    """A query for the image `source`, or for each image below the folder `source`; and the unusable files there.

    Raises:
        ImageError: `source` is neither a usable image nor a folder.
        InputError: the folder has no usable image.
    """
    if not source.is_dir():
        return [read_query(source, embedder)], {}
    paths = images.find_images(source)
    vectors, errors = embedder.embed_files(paths)
    broken = {path: error for path, error in zip(paths, errors, strict=True) if error}
    queries = [_query(path, vector) for path, vector in zip(paths, vectors, strict=True) if path not in broken]
    if not queries:
        suffixes = ", ".join(sorted(images.SUFFIXES))
        raise InputError(f"{source}: none of {len(paths)} image files is usable as a query; images end in {suffixes}")
    return queries, broken


def _query(path: Path, vector: Vectors) -> Query:
    # `parse_name` takes a folder's name for an identity unless the file's name has one, as in Market-1501. But the
    # folder of a query may have any name, so it is kept apart until the gallery is searched.
    with_folder, name_only = parse_name(path.absolute().as_posix()), parse_name(path.name)
    folder = with_folder.identity if with_folder.identity != name_only.identity else None
    cameras = () if with_folder.camera is None else (with_folder.camera,)
    return Query(path, vector, with_folder._replace(identity=name_only.identity), folder, cameras)


def merge_queries(path: Path, queries: Sequence[Query]) -> Query:
    """One multi-shot query for the person of all `queries`: its vector is the mean of theirs, scaled to unit length.

    It has their identity if they agree on one, and all their cameras. `path` stands for all of them, such as their
    folder.
    """
    mean = np.mean([query.vector for query in queries], axis=0)
    length = max(float(np.linalg.norm(mean)), float(np.finfo(np.float32).tiny))
    identities, folders = {query.metadata.identity for query in queries}, {query.folder for query in queries}
    return Query(
        path,
        np.asarray(mean / length, np.float32),
        CropMetadata(identities.pop() if len(identities) == 1 else None),
        folders.pop() if len(folders) == 1 else None,
        tuple(sorted({camera for query in queries for camera in query.cameras})),
        tuple(query.path for query in queries),
        tuple(query.cameras[0] if query.cameras else None for query in queries),
    )


def cameras_of(query: Query) -> tuple[int, ...]:
    """The cameras that saw the person of `query`.

    Raises:
        InputError: none is known.
    """
    if not query.cameras:
        raise InputError(
            f"{query.path}: no camera ID in the file name, so the query's own camera cannot be excluded; "
            "exclude cameras by their numbers",
            parameter="exclude_same_camera",
        )
    return query.cameras
