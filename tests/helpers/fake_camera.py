"""A fake camera, detector and model: people are coloured rectangles, and the embedding is the mean colour."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bot_deploy.artifacts.contract import INPUT_NAME, METADATA_KEY, OUTPUT_NAME, Contract
from bot_deploy.demos.enrolment import Enroller
from bot_deploy.embedder import Embedder
from bot_deploy.gallery import Index
from bot_deploy.video.detectors import Detections, Detector
from bot_deploy.video.sources import Frame

Box = tuple[float, float, float, float]
GREY = 40  # of the background, which the detector ignores
RED, GREEN, BLUE, ORANGE = (200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 150, 0)
CONTRACT = Contract(arch="colour", height=16, width=8, dim=3, fingerprint="colours")


def embed(pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The mean colour of each picture, as a unit vector [N, 3]."""
    means = pictures.reshape(len(pictures), -1, 3).mean(1, dtype=np.float64) + 1e-3
    return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)


def embedder(contract: Contract = CONTRACT) -> Embedder:
    return Embedder(contract, "a fake", embed)


def write_colour_model(path: Path) -> Path:
    """Writes `embedder` as an exported model, so that programs can open it; returns `path`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "height_and_width"], ["means"], keepdims=0),
        helper.make_node("Add", ["means", "epsilon"], ["nonzero_means"]),
        helper.make_node("LpNormalization", ["nonzero_means"], [OUTPUT_NAME], axis=1, p=2),
    ]
    constants = [
        numpy_helper.from_array(np.array([1, 2], np.int64), "height_and_width"),
        numpy_helper.from_array(np.array(1e-3, np.float32), "epsilon"),
    ]
    inputs = [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["N", CONTRACT.height, CONTRACT.width, 3])]
    outputs = [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", CONTRACT.dim])]
    graph = helper.make_graph(nodes, "colour", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {METADATA_KEY: CONTRACT.to_json()})
    onnx.save(model, str(path))
    return path


def scene(*people: tuple[tuple[int, int, int], Box], size: tuple[int, int] = (240, 320)) -> npt.NDArray[np.uint8]:
    """A grey picture with a rectangle for each (colour, box); later ones are nearer."""
    pixels = np.full((*size, 3), GREY, np.uint8)
    for colour, (left, top, right, bottom) in people:
        pixels[int(top) : int(bottom), int(left) : int(right)] = colour
    return pixels


def detect(pixels: npt.NDArray[np.uint8]) -> Detections:
    """The tight box of each colour but the background's."""
    boxes = []
    for colour in sorted({tuple(pixel) for pixel in pixels[::4, ::4].reshape(-1, 3).tolist()} - {(GREY,) * 3}):
        rows, columns = np.nonzero((pixels == colour).all(2))
        boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.full(len(boxes), 0.9, np.float32))


DETECTOR = Detector("a fake", detect)


def frames_of(
    pictures: Iterator[npt.NDArray[np.uint8]] | list[npt.NDArray[np.uint8]], fps: float = 10, first: int = 0
) -> Iterator[Frame]:
    """Frames of `pictures` with times and with numbers from `first`."""
    for number, pixels in enumerate(pictures, first):
        yield Frame(pixels, number, number / fps)


def crop_of(colour: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """A crop of one colour."""
    return scene((colour, (0, 0, 320, 240)))


def vector_of(colour: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """The embedding [3] of a crop of one colour."""
    return embed(crop_of(colour)[None])[0]


def enrol(gallery: Index, **colours: tuple[int, int, int]) -> None:
    """Enrols a person for each name and colour."""
    for name, colour in colours.items():
        Enroller(gallery).enrol(name, crop_of(colour), vector_of(colour))


def enrolled_names(gallery: Index) -> set[str | None]:
    return {item.identity for item in gallery.items()}
