"""What the service does with pictures and people, without HTTP."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bot_deploy import images
from bot_deploy.camera_means import camera_means_of
from bot_deploy.demos.enrolment import Enroller
from bot_deploy.errors import ImageError
from bot_deploy.footage import Footage
from bot_deploy.footage.forgetting import forget_person
from bot_deploy.footage.videos import camera_number, check_camera_name
from bot_deploy.matching.identify import PersonIdentifier
from bot_deploy.matching.match import rank
from bot_deploy.matching.queries import ARRAY, Query

from .batcher import Batcher
from .metrics import Metrics
from .people import Person, UnknownPersonError, list_people, rename_person

if TYPE_CHECKING:
    from concurrent.futures import Future

    from bot_deploy.embedder import Embedder, Vectors
    from bot_deploy.footage import Appearance
    from bot_deploy.footage.forgetting import Forgotten
    from bot_deploy.gallery import LocalIndex, MilvusIndex
    from bot_deploy.images import Pixels

SHOWN_HEIGHT = 256  # pixels, of a picture that is shown
KEPT_SIDE = 1024  # greatest height and width in pixels of a picture that is kept; a model takes far fewer


@dataclass(frozen=True, eq=False)
class Picture:
    """What is left of a picture that was sent: a few megapixels would fill the memory while they wait."""

    crop: Pixels  # uint8 RGB, in the size of the model
    kept: Pixels  # uint8 RGB [H, W, 3], for the gallery


class Service:
    """One model and one gallery. All methods may be called from any thread."""

    def __init__(self, embedder: Embedder, gallery: LocalIndex | MilvusIndex) -> None:
        self.contract, self.backend, self.gallery = embedder.contract, embedder.backend, gallery
        self.metrics = Metrics()
        self.batcher = Batcher(embedder, self.metrics)
        means = camera_means_of(embedder.contract)
        self._identifier = PersonIdentifier(gallery, embedder.contract.calibration, means=means)
        self._enroller = Enroller(gallery)
        self._cameras = Footage(gallery).cameras
        self._learned: set[tuple[int, str]] = set()  # camera and name
        self._changing = threading.Lock()  # one change of the gallery at one time

    def read(self, data: bytes) -> Picture:
        """The picture in the body of a request.

        Raises:
            ImageError: it is none.
        """
        if not data:
            raise ImageError("the body of the request is empty; it has to be a picture")
        pixels = images.decode_image(data, "the picture")
        scale = min(1, KEPT_SIDE / max(pixels.shape[:2]))
        height, width = (max(1, round(scale * side)) for side in pixels.shape[:2])
        return Picture(images.resize(pixels, self.contract.size), images.resize(pixels, (height, width)))

    def embed(self, crop: Pixels) -> Future[Vectors]:
        """The coming unit vector [D] of `crop` uint8 RGB, in the size of the model.

        Raises:
            BusyError: too many pictures wait.
        """
        return self.batcher.submit(crop)

    def match(self, vector: Vectors, top: int, camera: str | None = None) -> dict[str, Any]:
        """The rank list of the gallery's images for `vector` [D], its people, and the verdict, as JSON.

        `camera` is the name of the camera that took the picture; None: unknown.

        Raises:
            InputError: `camera` cannot be a name.
        """
        number = self._find_camera(camera)
        query = Query(ARRAY, vector, cameras=() if number is None else (number,))
        ranking = rank([query], self.gallery, self.contract.calibration, top, means=self._identifier.means)[0]
        root = self.gallery.root
        people = self._identifier.candidates(vector, number)[:top]
        return {
            "matches": [
                {
                    "rank": found.rank,
                    "score": found.score,
                    "identity": found.identity,
                    "path": found.path.relative_to(root).as_posix(),
                    "camera": found.camera,
                    "time": found.time,
                    **_where_and_when(found.appearance),
                }
                for found in ranking.matches
            ],
            "people": [{"name": person.name, "score": person.score} for person in people],
            "verdict": asdict(ranking.verdict),
        }

    def _find_camera(self, name: str | None) -> int | None:
        if name is None:
            return None
        check_camera_name(name)
        return camera_number(name, self._cameras)

    def people(self) -> list[Person]:
        """Everybody in the gallery."""
        return list_people(self.gallery)

    def enrol(self, name: str | None, picture: Pixels, vector: Vectors, camera: str | None = None) -> str:
        """Adds `picture` with its `vector` [D] to the person `name`, or to a new one; returns the name.

        `camera` is the name of the camera that took it; None: unknown.

        When it returns, the picture and the vector are on the disk.

        Raises:
            InputError: the name cannot be used.
            RunError: the gallery cannot be written.
        """
        number = self._find_camera(camera)
        with self._changing:
            if name is None:
                enrolled = self._enroller.enrol_stranger(picture, vector, camera=number).name
            else:
                enrolled = self._enroller.enrol(name, picture, vector, camera=number).name
            if number is not None and (number, enrolled) not in self._learned:  # once, as the demo does for a track
                self._learned.add((number, enrolled))
                self._identifier.learn_camera(number, vector)  # a new camera of an adapted model
            return enrolled

    def rename(self, old: str, new: str) -> Person:
        """As `people.rename_person`."""
        with self._changing:
            return rename_person(self.gallery, old, new)

    def forget(self, name: str) -> Forgotten:
        """As `footage.forgetting.forget_person`.

        Raises:
            UnknownPersonError: nobody has this name.
        """
        with self._changing:
            if not self.gallery.has_identity(name):
                raise UnknownPersonError(f"{name}: the gallery has nobody of this name")
            forgotten = forget_person(self.gallery, name)
            self._enroller.names.discard(name)
            return forgotten

    def picture(self, path: str) -> Pixels:
        """The gallery's image `path`, at most SHOWN_HEIGHT high.

        Raises:
            RunError: the gallery has no such image.
            ImageError: its file cannot be read.
        """
        self.gallery.vectors([path])  # only what the gallery holds is read
        pixels = images.read_image(self.gallery.root / path)
        height, width = pixels.shape[:2]
        if height <= SHOWN_HEIGHT:
            return pixels
        return images.resize(pixels, (SHOWN_HEIGHT, max(1, width * SHOWN_HEIGHT // height)))

    def close(self) -> None:
        """Ends when every picture is embedded."""
        self.batcher.close()
        self.gallery.close()


def _where_and_when(appearance: Appearance | None) -> dict[str, object]:
    """The camera and the span of a match in a video, as `bot match --json` calls them; nothing of any other match."""
    if appearance is None:
        return {}
    return {"camera_name": appearance.camera, "from": appearance.start, "to": appearance.end}
