"""Enrolment: add people to a gallery, under names from which the gallery can be indexed again."""

from __future__ import annotations

import contextlib
import logging
import random
import re
import time
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from bot_deploy import gallery as galleries
from bot_deploy.console import say_left_out
from bot_deploy.datasets.names import SPECIAL_LABELS
from bot_deploy.errors import BotError, InputError, RunError
from bot_deploy.escaping import escape
from bot_deploy.files import unused_path, write_atomically
from bot_deploy.footage.forgetting import MILVUS_CROPS
from bot_deploy.footage.videos import FIRST_NAMED_CAMERA
from bot_deploy.gallery import GalleryItem
from bot_deploy.matching.identify import Candidate, person_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bot_deploy.embedder import Embedder, Vectors
    from bot_deploy.gallery import Index, LocalIndex, MilvusIndex
    from bot_deploy.images import Pixels

logger = logging.getLogger(__name__)

DEFAULT_GALLERY = "people.gallery"  # in the current folder
MAX_NAME_BYTES = 200
AUTOMATIC_NAME = "person-{}"
# Windows opens a device for such a name, whatever follows a dot.
DEVICE_NAME = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9\u00b9\u00b2\u00b3]|con(in|out)\$)\s*(\.|$)", re.IGNORECASE)
MAX_RETRY_WAIT_S = 0.5  # before another automatic name, when another machine has taken the same one


class Enroller:
    """Adds people to a gallery: a crop in a folder with the person's name, and its embedding."""

    def __init__(self, gallery: Index) -> None:
        self.gallery = gallery
        self.names = {name for item in gallery.items() if not item.error and (name := person_name(item)) is not None}

    def enrol_stranger(
        self, crop: Pixels, embedding: Vectors, stem: str | None = None, camera: int | None = None
    ) -> Candidate:
        """Adds a new person under the first automatic name that nobody has, and that nobody takes at the same time.

        Programs that share the folder of crops cannot take the same name: each makes the folder of that name, which
        succeeds for one of them only. Machines that share only a Milvus server see each other's item after they have
        added their own; then each removes its own and tries another name.

        Raises:
            RunError: the crop or the gallery cannot be written.
        """
        while True:
            name = self._claim_name()
            try:
                candidate = self.enrol(name, crop, embedding, stem, camera)
            except BaseException:
                self._remove_empty_folder(name)
                raise
            if self.gallery.count_identity(name) <= 1:
                return candidate
            self.gallery.remove([candidate.crop_path.relative_to(self.gallery.root).as_posix()])
            candidate.crop_path.unlink(missing_ok=True)
            self._remove_empty_folder(name)
            time.sleep(random.uniform(0, MAX_RETRY_WAIT_S))  # noqa: S311 - the machines must not retry in step

    def _claim_name(self) -> str:
        """Makes the folder of an automatic name that neither the gallery nor another program has; returns the name."""
        root, taken = self.gallery.root, {name.casefold() for name in self.names}
        with _convert_errors(root):
            root.mkdir(parents=True, exist_ok=True)
            for number in count(1):
                name = AUTOMATIC_NAME.format(number)
                if name not in taken and not self.gallery.has_identity(name):
                    with contextlib.suppress(FileExistsError):
                        (root / name).mkdir()
                        return name
        raise AssertionError  # `count` does not end

    def _remove_empty_folder(self, name: str) -> None:
        with contextlib.suppress(OSError):  # not empty
            (self.gallery.root / name).rmdir()

    def enrol(
        self, name: str, crop: Pixels, embedding: Vectors, stem: str | None = None, camera: int | None = None
    ) -> Candidate:
        """Adds the person `name` with `crop` uint8 RGB [H, W, 3] and the unit vector `embedding` [D].

        `stem` is the name of the crop's file, without its suffix: see `crop_stem`. None means the present time.
        `camera` took the crop; its number becomes a part of the name too, if names can hold it.

        Raises:
            InputError: the name cannot be used.
            RunError: the crop or the gallery cannot be written.
        """
        check_name(name)
        root, stem = self.gallery.root, stem or crop_stem(time.time(), 0)
        if camera is not None and camera < FIRST_NAMED_CAMERA:
            stem += f"_c{camera}"
        with _convert_errors(root / name):
            (root / name).mkdir(parents=True, exist_ok=True)
            path = unused_path(root / name / f"{stem}.png")
        try:
            image = Image.fromarray(crop)
            # A killed program leaves no half of a picture.
            write_atomically(path, lambda temporary: image.save(temporary, "PNG"), temporary_folder=root)
            size = path.stat().st_size
            relative_path = path.relative_to(root).as_posix()
            # The same item as `index_folder` makes: `bot index` and `bot match` find nothing new.
            item = GalleryItem(
                relative_path,
                size,
                digest=galleries.file_digest(path),
                **galleries.parse_name(relative_path)._asdict(),
            )._replace(camera=camera)
            self.gallery.add([item], embedding[None])
        except BotError:  # a full disk; a crop without an item would become a person at the next `bot index`
            path.unlink(missing_ok=True)
            raise
        self.names.add(name)
        return Candidate(name, 1.0, path)


def crop_stem(clock: float | None, frame: int) -> str:
    """The name of the file of a crop: when it was filmed, in seconds since 1970, or the number of its frame.

    With microseconds, because another machine may enrol the same name into the same Milvus server.
    """
    try:
        return f"{datetime.fromtimestamp(clock, UTC):%Y-%m-%d_%H-%M-%S-%f}" if clock is not None else f"{frame:06d}"
    except (OverflowError, ValueError, OSError):  # no date that a calendar has
        return f"{frame:06d}"


@contextlib.contextmanager
def _convert_errors(folder: Path) -> Iterator[None]:
    """Turns errors of the disk into RunError about the crops in `folder`."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{folder}: the crop cannot be written ({error.strerror or error})") from None


def check_name(name: str) -> None:
    """Checks that `name` can be the name of a folder, and that the gallery reads it as an identity again.

    Raises:
        InputError: it cannot.
    """
    if not name or re.search(r'[\\/:*?"<>|]', name) or name != name.strip(" ."):
        raise InputError(f"{escape(name)!r}: the name is also a folder's name; leave out special characters")
    if not name.isprintable():
        raise InputError(f"{escape(name)!r}: the name has characters that nobody can see; leave them out")
    if DEVICE_NAME.match(name):
        raise InputError(f"{name}: Windows has no folder of this name; choose another name")
    if len(name.encode(errors="replace")) > MAX_NAME_BYTES:
        raise InputError(f"{name[:20]}...: too long for the name of a folder")
    if name in SPECIAL_LABELS or galleries.parse_name(f"{name}/picture.png").identity != name:
        raise InputError(f"{name}: looks like a camera, a date or a part of a data set; choose another name")


def open_enrolment_gallery(address: str | None, embedder: Embedder) -> LocalIndex | MilvusIndex:
    """Opens the gallery at `address`: an index of `bot index`, a folder of crops, or a Milvus address.

    A gallery that does not exist, or an empty folder, becomes an empty gallery with its crops in the folder `crops`
    inside. None means `DEFAULT_GALLERY`.

    Raises:
        InputError: it was made by another model, or is something else.
        RunError: it cannot be read or written.
    """
    address = address or DEFAULT_GALLERY
    path = Path(address)
    gallery: LocalIndex | MilvusIndex
    if not galleries.is_index(address) and path.is_dir() and not galleries.is_empty_folder(path):
        gallery, _ = galleries.open_folder_gallery(path, embedder)
    else:
        root = Path(MILVUS_CROPS) if galleries.is_milvus(address) else path / "crops"
        gallery = galleries.open_or_create_index(address, embedder.contract, root)
        if not gallery.root.is_dir() and root.is_dir():  # the gallery was moved with its crops
            gallery.root = root.absolute()
    try:
        broken = [f"{gallery.root / item.path}: {item.error}" for item in gallery.broken()]
    except BaseException:  # a damaged row
        gallery.close()
        raise
    say_left_out(broken, "`bot index` names them")
    return gallery
