"""Who is known: a gallery that people on camera are looked up in and enrolled into."""

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
from bot_deploy.matching.identify import Candidate, PersonIdentifier, person_name
from bot_deploy.matching.match import NON_IDENTITIES

if TYPE_CHECKING:
    from bot_deploy.artifacts.contract import Calibration
    from bot_deploy.embedder import Embedder, Vectors
    from bot_deploy.gallery import Gallery
    from bot_deploy.images import Pixels

logger = logging.getLogger(__name__)

DEFAULT = "people.gallery"  # in the current folder, where none is named
LONGEST = 200  # bytes of a name
AUTOMATIC = "person-{}"


class People(PersonIdentifier):
    """The gallery, what counts as the same person, and the enrolling of new people."""

    def __init__(self, gallery: Gallery, calibration: Calibration | None, min_score: float | None = None) -> None:
        super().__init__(gallery, calibration, min_score)
        self._names = {name for item in gallery.items() if not item.error and (name := person_name(item)) is not None}

    def __len__(self) -> int:
        return len(self._names)

    def next_name(self) -> str:
        """An automatic name that nobody has."""
        taken = {name.casefold() for name in self._names}
        number = 1
        # Another program may enrol into the same gallery.
        while AUTOMATIC.format(number) in taken or self.gallery.has_identity(AUTOMATIC.format(number)):
            number += 1
        return AUTOMATIC.format(number)

    def check_name(self, name: str) -> None:
        """Raises InputError when `name` cannot be that of a folder from which `gallery.parse_name` reads it again."""
        if not name or re.search(r'[\\/:*?"<>|\x00-\x1f]', name) or name != name.strip(" ."):
            raise InputError(f"{name!r}: a name is also one of a folder; leave out special characters")
        if len(name.encode(errors="replace")) > LONGEST:
            raise InputError(f"{name[:20]}...: too long for the name of a folder")
        if name in NON_IDENTITIES or galleries.parse_name(f"{name}/picture.png").identity != name:
            raise InputError(f"{name}: reads like a camera, a day or a part of a data set; choose another name")

    def enrol(self, name: str, crop: Pixels, vector: Vectors) -> Candidate:
        """Adds the person `name` with the picture `crop` uint8 RGB [H, W, 3] and the unit `vector` [D].

        Raises:
            InputError: no usable name.
            RunError: the picture or the gallery cannot be written.
        """
        self.check_name(name)
        root = self.gallery.root
        try:
            (root / name).mkdir(parents=True, exist_ok=True)
            now = datetime.now(UTC)
            path = unused_path(root / name / f"{now:%Y-%m-%d_%H-%M-%S}.png")
            Image.fromarray(crop).save(path)
        except OSError as error:
            raise RunError(f"{root / name}: the picture cannot be kept ({error.strerror or error})") from None
        where, stat = path.relative_to(root).as_posix(), path.stat()
        # As indexing the folder would have it: `bot index` and `bot match` find nothing new.
        row = GalleryItem(
            where, stat.st_size, stat.st_mtime_ns, galleries.file_digest(path), **galleries.parse_name(where)._asdict()
        )
        self.gallery.add([row], vector[None])
        self._names.add(name)
        return Candidate(name, 1.0, path)


def open_people(address: str | None, embedder: Embedder, min_score: float | None = None) -> People:
    """The people in the gallery at `address`: what `bot index` made, a folder of crops, or a Milvus address.

    One that does not exist yet, or an empty folder, becomes an empty gallery; its pictures lie in `crops` inside.

    Raises:
        InputError: it was made by another model, or is something else.
        RunError: it cannot be read or written.
    """
    address = address or DEFAULT
    path = Path(address)
    gallery: Gallery
    if not galleries.is_gallery(address) and path.is_dir() and not galleries.is_empty(path):
        gallery, _ = galleries.open_folder_gallery(path, embedder)
    else:
        root = Path("people") if galleries.is_milvus(address) else path / "crops"
        gallery = galleries.create_gallery(address, embedder.contract, root)
        if not gallery.root.is_dir() and root.is_dir():  # the gallery was moved, its pictures with it
            gallery.root = root.absolute()
    for row in gallery.broken():
        logger.warning(f"left out: {gallery.root / row.path}: {row.error}")
    return People(gallery, embedder.contract.calibration, min_score)
