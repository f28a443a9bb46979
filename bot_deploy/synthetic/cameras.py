"""The six cameras: where they look from, and what they do to the light that reaches them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .tubes import Array, Light


@dataclass(frozen=True)
class Camera:
    """One fixed camera. Its scene is 1280x720 pixels; angles are radians, lengths metres or scene pixels."""

    number: int  # 1 to 6
    scene: str
    horizon: float  # the scene row at eye level; above the picture for a camera that looks down
    above_ground: float
    wall: int  # the row where the ground ends
    pitch: float
    yaws: tuple[float, ...]  # walking directions, 0 towards the camera and pi/2 to the right
    light: Light
    gain: tuple[float, float, float]  # white balance and exposure, RGB
    gamma: float
    contrast: float
    saturation: float
    blur: float  # defocus, in crop pixels
    motion: float  # smear along the walking direction, in crop pixels
    noise: float
    quality: int  # of the JPEG
    margin: float  # how much wider than the person a box is drawn

    def scale(self, row: float) -> float:
        """Pixels per metre of a person whose feet are on scene row `row`."""
        return (row - self.horizon) / self.above_ground


_SPARE = 64  # rows and columns of noise beyond a frame

CAMERAS = (
    Camera(1, "park", 130, 2.6, 300, 0.10, (0.2, 2.9), (-0.6, -0.5, 0.62), (1.03, 1.0, 0.91), 0.92, 1.05, 1.1,
           0.5, 0.0, 0.012, 88, 0.10),
    Camera(2, "brick", 60, 3.2, 330, 0.18, (1.4, -1.75), (0.5, -0.5, 0.7), (1.1, 0.97, 0.84), 1.05, 0.95, 0.9,
           0.6, 0.6, 0.02, 76, 0.06),
    Camera(3, "shops", 170, 2.3, 310, 0.05, (0.7, -2.4), (0.1, -0.75, 0.65), (0.98, 1.0, 1.02), 0.8, 0.82, 0.8,
           0.7, 0.0, 0.016, 82, 0.14),
    Camera(4, "road", 100, 3.0, 280, 0.14, (-1.5, 1.7), (-0.75, -0.3, 0.58), (0.9, 1.0, 1.12), 1.1, 1.1, 0.85,
           0.5, 1.3, 0.022, 70, 0.04),
    Camera(5, "plaza", -260, 5.4, 120, 0.42, (3.0, -0.4), (0.6, -0.62, 0.5), (1.08, 1.04, 0.95), 0.88, 0.9, 0.78,
           0.9, 0.0, 0.014, 84, 0.10),
    Camera(6, "station", 20, 3.4, 290, 0.2, (-0.8, 2.3), (0.0, -0.8, 0.6), (0.86, 0.95, 0.76), 1.22, 1.08, 0.8,
           0.8, 0.4, 0.035, 62, 0.08),
)  # fmt: skip


def develop(
    camera: Camera, picture: Array, size: tuple[int, int], rng: np.random.Generator, *, heading: float = 0.0
) -> npt.NDArray[np.uint8]:
    """What `camera` makes of RGB `picture` [h, w, 3] in 0..1: uint8 RGB of `size` (width, height).

    `heading` is the walking yaw; the smear of a moving person grows with its sideways part.
    """
    zoom = picture.shape[1] / size[0]
    picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), camera.blur * rng.uniform(0.7, 1.5) * zoom))
    smear = round(zoom * camera.motion * abs(np.sin(heading)) * rng.uniform(0.5, 1.6))
    if smear > 0:
        picture = np.asarray(cv2.blur(picture, (smear + 1, 1)))
    small = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.float32)
    small = np.power(np.clip(small, 0, 1), np.float32(camera.gamma * rng.uniform(0.9, 1.1)))
    small *= (np.array(camera.gain) * rng.uniform(0.86, 1.14) * rng.uniform(0.96, 1.04, 3)).astype(np.float32)
    grey = (small @ np.array((0.299, 0.587, 0.114), dtype=np.float32))[:, :, None]
    small = grey + np.float32(camera.saturation) * (small - grey)
    small = 0.45 + np.float32(camera.contrast) * (small - np.float32(0.45))
    small += rng.normal(0, camera.noise, small.shape).astype(np.float32)
    return np.asarray(np.clip(small * 255 + 0.5, 0, 255), dtype=np.uint8)


class Film:
    """The same, but steady and quick: for the frames of a video, `size` (height, width), of one camera."""

    def __init__(self, camera: Camera, size: tuple[int, int], zoom: float) -> None:
        """`zoom` is the size of a picture over that of the scene."""
        self._blur = 0.8 * camera.blur * zoom
        tone = np.linspace(0, 1, 256, dtype=np.float32)[:, None] ** np.float32(camera.gamma)
        self._tone = (tone * np.array(camera.gain, dtype=np.float32))[:, None, :]
        # Saturation moves a colour away from its grey, contrast away from the middle.
        mix = camera.saturation * np.eye(3) + (1 - camera.saturation) * np.array((0.299, 0.587, 0.114))
        middle = np.full((3, 1), 0.45 * (1 - camera.contrast))
        self._matrix = 255 * np.hstack((camera.contrast * mix, middle))
        # One sheet of noise, of which each frame takes another part.
        rows, columns = size[0] + _SPARE, size[1] + _SPARE
        grain = np.random.default_rng(camera.number).standard_normal((rows, columns, 3), dtype=np.float32)
        self._grain = grain * np.float32(0.6 * 255 * camera.noise)

    def develop(self, picture: Array, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """What the camera makes of RGB `picture` [H, W, 3] in 0..1: uint8 RGB of the same size."""
        exposed = np.asarray(cv2.GaussianBlur(cv2.convertScaleAbs(picture, alpha=255), (0, 0), self._blur))
        lit = cv2.transform(cv2.LUT(exposed, self._tone), self._matrix)
        row, column = rng.integers(_SPARE, size=2).tolist()
        grain = self._grain[row : row + picture.shape[0], column : column + picture.shape[1]]
        return np.asarray(cv2.add(lit, grain, dtype=cv2.CV_8U), dtype=np.uint8)


def encode(camera: Camera, picture: npt.NDArray[np.uint8]) -> bytes:
    """uint8 RGB [H, W, 3] as the JPEG that `camera` would send."""
    done, data = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, camera.quality])
    if not done:
        raise RuntimeError("the picture cannot be encoded as JPEG; reinstall opencv-python")
    return data.tobytes()
