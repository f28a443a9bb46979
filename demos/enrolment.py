"""Who is known: a gallery that people on camera are looked up in and enrolled into."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from bot_deploy import gallery as galleries
from bot_deploy.errors import InputError, RunError
from bot_deploy.files import unused_path
from bot_deploy.gallery import GalleryItem
from bot_deploy.matching.match import NON_IDENTITIES
from bot_deploy.matching.verdict import MATCH, NO_MATCH, UNCERTAIN, decide

if TYPE_CHECKING:
    from bot_deploy.artifacts.contract import Calibration
    from bot_deploy.embedder import Embedder, Vectors
    from bot_deploy.gallery import Gallery
    from bot_deploy.images import Pixels

logger = logging.getLogger(__name__)

DEFAULT = "people.gallery"  # in the current folder, where none is named
SAME, MARGIN = 0.6, 0.15  # cosines for a model that nobody calibrated: a match, and how far below is uncertain
PICTURES, MOST_PICTURES = 24, 12288  # that a look-up compares: more while several are of one person
PEOPLE = 4  # that it should find
LONGEST = 200  # bytes of a name
AUTOMATIC = "person-{}"


class Candidate(NamedTuple):
    """Somebody in the gallery who a person on camera may be."""

    name: str
    score: float  # cosine with the most similar picture
    picture: Path


class People:
    """The gallery, and what counts as the same person."""

    def __init__(self, gallery: Gallery, calibration: Calibration | None, min_score: float | None = None) -> None:
        """`min_score`, where given, goes before `calibration`: the least cosine that is a match."""
        self.gallery = gallery
        self._calibration = calibration if min_score is None else None
        self._same = SAME if min_score is None else min_score
        self._names = {name for row in gallery.items() if not row.error and (name := name_of(row)) is not None}
        self._size = len(gallery)

    @property
    def outlier(self) -> float:
        """Two pictures less similar than this do not show the same person."""
        return self._calibration.reject_threshold if self._calibration else self._same - MARGIN

    @property
    def rule(self) -> str:
        """What is a match, in words."""
        if self._calibration:
            return f"a match from {self._calibration.threshold:.3f} on (calibrated)"
        return f"a match from {self._same:.3f} on (not calibrated: `bot calibrate` finds a threshold that holds)"

    def __len__(self) -> int:
        return len(self._names)

    def candidates(self, vector: Vectors) -> list[Candidate]:
        """People that look like the unit `vector` [D], the most similar first."""
        top, self._size = PICTURES, len(self.gallery)
        while True:
            found = self.gallery.search(vector, top)
            best: dict[str, Candidate] = {}
            for one in found:
                name = name_of(one.item)
                if name is not None:
                    best.setdefault(name, Candidate(name, one.score, self.gallery.root / one.item.path))
            if len(best) >= PEOPLE or len(found) < top or top >= MOST_PICTURES:
                return list(best.values())
            top *= 8

    def decision(self, score: float) -> str:
        """One of `verdict.MATCH`, `UNCERTAIN` and `NO_MATCH` for a candidate's `score`."""
        if self._calibration:
            return decide(self._calibration, score, self._size).decision
        return MATCH if score >= self._same else UNCERTAIN if score >= self._same - MARGIN else NO_MATCH

    def resembles(self, score: float) -> bool:
        """Whether a candidate's `score` is a match but for the size of the gallery, and for who else is there."""
        return score >= (self._calibration.threshold if self._calibration else self._same)

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


def name_of(row: GalleryItem) -> str | None:
    """The identity, or the file's name where none is known; None for Market-1501's junk and distractors."""
    return None if row.identity in NON_IDENTITIES else row.identity or Path(row.path).stem
