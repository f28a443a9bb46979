"""The six cameras: their positions, and their effects on a picture (blur, colours, noise, JPEG)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .primitives import Float32Array, LightDirection


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A fixed camera. Its scene is 1280x720 pixels; angles are radians. A row is a row of the scene."""

    number: int  # 1 to 6
    scene: str
    horizon_row: float  # negative (above the picture) for a camera that looks down
    height_m: float  # above the ground
    wall_row: int  # where the ground ends and the wall begins
    pitch: float  # downward tilt
    headings: tuple[float, ...]  # walking directions in crops: 0 is towards the camera, pi/2 to the right
    light: LightDirection
    gain: tuple[float, float, float]  # white balance and exposure, RGB
    gamma: float
    contrast: float
    saturation: float
    blur: float  # defocus; standard deviation in crop pixels
    motion_blur: float  # length in crop pixels, for a person who walks sideways
    noise: float  # standard deviation, on a scale of 0..1
    jpeg_quality: int
    box_margin: float  # extra size of a detection box, relative to the person

    def scale(self, row: float) -> float:
        """Pixels per metre of a person whose feet are on `row`."""
        return (row - self.horizon_row) / self.height_m


_NOISE_MARGIN = 64  # extra rows and columns of the noise, beyond the size of a frame

CAMERAS = (
    Camera(
        number=1,
        scene="park",
        horizon_row=130,
        height_m=2.6,
        wall_row=300,
        pitch=0.10,
        headings=(0.2, 2.9),
        light=(-0.6, -0.5, 0.62),
        gain=(1.03, 1.0, 0.91),
        gamma=0.92,
        contrast=1.05,
        saturation=1.1,
        blur=0.5,
        motion_blur=0.0,
        noise=0.012,
        jpeg_quality=88,
        box_margin=0.10,
    ),
    Camera(
        number=2,
        scene="brick",
        horizon_row=60,
        height_m=3.2,
        wall_row=330,
        pitch=0.18,
        headings=(1.4, -1.75),
        light=(0.5, -0.5, 0.7),
        gain=(1.1, 0.97, 0.84),
        gamma=1.05,
        contrast=0.95,
        saturation=0.9,
        blur=0.6,
        motion_blur=0.6,
        noise=0.02,
        jpeg_quality=76,
        box_margin=0.06,
    ),
    Camera(
        number=3,
        scene="shops",
        horizon_row=170,
        height_m=2.3,
        wall_row=310,
        pitch=0.05,
        headings=(0.7, -2.4),
        light=(0.1, -0.75, 0.65),
        gain=(0.98, 1.0, 1.02),
        gamma=0.8,
        contrast=0.82,
        saturation=0.8,
        blur=0.7,
        motion_blur=0.0,
        noise=0.016,
        jpeg_quality=82,
        box_margin=0.14,
    ),
    Camera(
        number=4,
        scene="road",
        horizon_row=100,
        height_m=3.0,
        wall_row=280,
        pitch=0.14,
        headings=(-1.5, 1.7),
        light=(-0.75, -0.3, 0.58),
        gain=(0.9, 1.0, 1.12),
        gamma=1.1,
        contrast=1.1,
        saturation=0.85,
        blur=0.5,
        motion_blur=1.3,
        noise=0.022,
        jpeg_quality=70,
        box_margin=0.04,
    ),
    Camera(
        number=5,
        scene="plaza",
        horizon_row=-260,
        height_m=5.4,
        wall_row=120,
        pitch=0.42,
        headings=(3.0, -0.4),
        light=(0.6, -0.62, 0.5),
        gain=(1.08, 1.04, 0.95),
        gamma=0.88,
        contrast=0.9,
        saturation=0.78,
        blur=0.9,
        motion_blur=0.0,
        noise=0.014,
        jpeg_quality=84,
        box_margin=0.10,
    ),
    Camera(
        number=6,
        scene="station",
        horizon_row=20,
        height_m=3.4,
        wall_row=290,
        pitch=0.2,
        headings=(-0.8, 2.3),
        light=(0.0, -0.8, 0.6),
        gain=(0.86, 0.95, 0.76),
        gamma=1.22,
        contrast=1.08,
        saturation=0.8,
        blur=0.8,
        motion_blur=0.4,
        noise=0.035,
        jpeg_quality=62,
        box_margin=0.08,
    ),
)


def apply_camera(
    camera: Camera, picture: Float32Array, size: tuple[int, int], rng: np.random.Generator, *, heading: float = 0.0
) -> npt.NDArray[np.uint8]:
    """The image that `camera` takes of a crop: blur, colours and noise, with random variation of each.

    `picture` is RGB float32 [h, w, 3] in 0..1; the result is uint8 RGB of `size` (width, height). `heading` is the
    walking direction; motion blur grows with its sideways part.
    """
    zoom = picture.shape[1] / size[0]
    picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), camera.blur * rng.uniform(0.7, 1.5) * zoom))
    blur_length = round(zoom * camera.motion_blur * abs(np.sin(heading)) * rng.uniform(0.5, 1.6))
    if blur_length > 0:
        picture = np.asarray(cv2.blur(picture, (blur_length + 1, 1)))
    small = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.float32)
    small = np.power(np.clip(small, 0, 1), np.float32(camera.gamma * rng.uniform(0.9, 1.1)))
    small *= (np.array(camera.gain) * rng.uniform(0.86, 1.14) * rng.uniform(0.96, 1.04, 3)).astype(np.float32)
    grey = (small @ np.array((0.299, 0.587, 0.114), dtype=np.float32))[:, :, None]
    small = grey + np.float32(camera.saturation) * (small - grey)
    small = 0.45 + np.float32(camera.contrast) * (small - np.float32(0.45))
    small += rng.normal(0, camera.noise, small.shape).astype(np.float32)
    return np.asarray(np.clip(small * 255 + 0.5, 0, 255), dtype=np.uint8)


class CameraResponse:
    """The effects of one camera on the frames of a video: `apply_camera` without its variation from crop to crop.

    Everything that frames share is computed once, for speed.
    """

    def __init__(self, camera: Camera, size: tuple[int, int], zoom: float) -> None:
        """`size` is (height, width) of a frame; `zoom` is its size relative to the scene."""
        self._blur = 0.8 * camera.blur * zoom
        curve = np.linspace(0, 1, 256, dtype=np.float32)[:, None] ** np.float32(camera.gamma)
        self._tone_curve = (curve * np.array(camera.gain, dtype=np.float32))[:, None, :]
        # Saturation scales the distance of a colour from its grey, contrast the distance from mid-grey.
        mix = camera.saturation * np.eye(3) + (1 - camera.saturation) * np.array((0.299, 0.587, 0.114))
        middle = np.full((3, 1), 0.45 * (1 - camera.contrast))
        self._matrix = 255 * np.hstack((camera.contrast * mix, middle))
        # Noise that is larger than a frame: each frame takes a random part of it.
        rows, columns = size[0] + _NOISE_MARGIN, size[1] + _NOISE_MARGIN
        noise = np.random.default_rng(camera.number).standard_normal((rows, columns, 3), dtype=np.float32)
        self._noise = noise * np.float32(0.6 * 255 * camera.noise)

    def apply(self, picture: Float32Array, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """The frame that the camera takes of `picture` (RGB float32 [H, W, 3] in 0..1): uint8 RGB of the same size."""
        blurred = np.asarray(cv2.GaussianBlur(cv2.convertScaleAbs(picture, alpha=255), (0, 0), self._blur))
        toned = cv2.transform(cv2.LUT(blurred, self._tone_curve), self._matrix)
        row, column = rng.integers(_NOISE_MARGIN, size=2).tolist()
        noise = self._noise[row : row + picture.shape[0], column : column + picture.shape[1]]
        return np.asarray(cv2.add(toned, noise, dtype=cv2.CV_8U), dtype=np.uint8)


def encode_jpeg(camera: Camera, picture: npt.NDArray[np.uint8]) -> bytes:
    """Encode uint8 RGB [H, W, 3] as JPEG, in the quality of `camera`."""
    success, data = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, camera.jpeg_quality])
    if not success:
        raise RuntimeError("the picture cannot be encoded as JPEG; reinstall opencv-python")
    return data.tobytes()
