"""Enrolment: add people to a gallery, under names from which the gallery can be indexed again."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from bot_deploy import gallery as galleries
from bot_deploy.errors import InputError, RunError
from bot_deploy.files import unused_path
from bot_deploy.gallery import GalleryItem
from bot_deploy.matching.identify import Candidate, person_name
from bot_deploy.matching.match import NON_IDENTITIES

if TYPE_CHECKING:
    from bot_deploy.embedder import Embedder, Vectors
    from bot_deploy.gallery import Gallery
    from bot_deploy.images import Pixels

logger = logging.getLogger(__name__)

DEFAULT_GALLERY = "people.gallery"  # in the current folder
MAX_NAME_BYTES = 200
AUTOMATIC_NAME = "person-{}"


class Enroller:
    """Adds people to a gallery: a crop in a folder with the person's name, and its embedding."""

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery
        self.names = {name for item in gallery.items() if not item.error and (name := person_name(item)) is not None}

    def unused_name(self) -> str:
        """The first automatic name that no person of the gallery has."""
        taken = {name.casefold() for name in self.names}
        number = 1
        # Another program may enrol into the same gallery.
        while AUTOMATIC_NAME.format(number) in taken or self.gallery.has_identity(AUTOMATIC_NAME.format(number)):
            number += 1
        return AUTOMATIC_NAME.format(number)

    def enrol(self, name: str, crop: Pixels, embedding: Vectors) -> Candidate:
        """Adds the person `name` with `crop` uint8 RGB [H, W, 3] and the unit vector `embedding` [D].

        Raises:
            InputError: the name cannot be used.
            RunError: the crop or the gallery cannot be written.
        """
        check_name(name)
        root = self.gallery.root
        try:
            (root / name).mkdir(parents=True, exist_ok=True)
            now = datetime.now(UTC)
            path = unused_path(root / name / f"{now:%Y-%m-%d_%H-%M-%S}.png")
            Image.fromarray(crop).save(path)
        except OSError as error:
            raise RunError(f"{root / name}: the crop cannot be written ({error.strerror or error})") from None
        relative_path, stat = path.relative_to(root).as_posix(), path.stat()
        # The same item as `index_folder` makes: `bot index` and `bot match` find nothing new.
        item = GalleryItem(
            relative_path,
            stat.st_size,
            stat.st_mtime_ns,
            galleries.file_digest(path),
            **galleries.parse_name(relative_path)._asdict(),
        )
        self.gallery.add([item], embedding[None])
        self.names.add(name)
        return Candidate(name, 1.0, path)


def check_name(name: str) -> None:
    """Checks that `name` can be the name of a folder, and that the gallery reads it as an identity again.

    Raises:
        InputError: it cannot.
    """
    if not name or re.search(r'[\\/:*?"<>|\x00-\x1f]', name) or name != name.strip(" ."):
        raise InputError(f"{name!r}: the name is also a folder's name; leave out special characters")
    if len(name.encode(errors="replace")) > MAX_NAME_BYTES:
        raise InputError(f"{name[:20]}...: too long for the name of a folder")
    if name in NON_IDENTITIES or galleries.parse_name(f"{name}/picture.png").identity != name:
        raise InputError(f"{name}: looks like a camera, a date or a part of a data set; choose another name")


def open_enrolment_gallery(address: str | None, embedder: Embedder) -> Gallery:
    """Opens the gallery at `address`: an index of `bot index`, a folder of crops, or a Milvus address.

    A gallery that does not exist, or an empty folder, becomes an empty gallery with its crops in the folder `crops`
    inside. None means `DEFAULT_GALLERY`.

    Raises:
        InputError: it was made by another model, or is something else.
        RunError: it cannot be read or written.
    """
    address = address or DEFAULT_GALLERY
    path = Path(address)
    gallery: Gallery
    if not galleries.is_gallery(address) and path.is_dir() and not galleries.is_empty(path):
        gallery, _ = galleries.open_folder_gallery(path, embedder)
    else:
        root = Path("people") if galleries.is_milvus(address) else path / "crops"
        gallery = galleries.create_gallery(address, embedder.contract, root)
        if not gallery.root.is_dir() and root.is_dir():  # the gallery was moved with its crops
            gallery.root = root.absolute()
    for item in gallery.broken():
        logger.warning(f"left out: {gallery.root / item.path}: {item.error}")
    return gallery
