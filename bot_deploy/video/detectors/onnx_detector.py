"""A detector in an .onnx file, whatever toolkit wrote it: its outputs and metadata say which."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.errors import InputError
from bot_deploy.machine import thread_count

from . import detr, ultralytics, yolox
from .detections import Detections, Detector
from .network import PADDING_GREY, DetectorNetwork, FramePreprocessing, open_network
from .output_format import MIN_TRIAL_CONFIDENCE
from .trial_picture import draw_people

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bot_deploy.images import Pixels

    from .detections import Floats
    from .output_format import OutputFormat

MIN_CONFIDENCE = 0.2  # low: ByteTrack continues a track with an uncertain box

# Asked in this order. Each takes a network and its outputs for an empty picture, and returns their format, or None if
# it is another kind of network.
OUTPUT_FORMATS: tuple[Callable[[DetectorNetwork, list[Floats]], OutputFormat | None], ...] = (
    ultralytics.recognize_outputs,
    yolox.recognize_outputs,
    detr.recognize_outputs,
)


def open_onnx_detector(path: Path, threads: int = 0, min_confidence: float | None = None) -> Detector:
    """The network in `path`: YOLOX, YOLOv8 to YOLO26 (with and without NMS inside), RT-DETR or RF-DETR.

    It has to find somebody on a picture with two people, because networks with another output format or other classes
    can have outputs of the same shape.

    Raises:
        InputError: no such file, another kind of network, or one that finds no people.
        RunError: ONNX Runtime is not installed.
    """
    network = open_network(path, thread_count(threads))
    output_format = _find_output_format(network)
    threshold = MIN_CONFIDENCE if min_confidence is None else min_confidence

    def read(outputs: list[Floats], scale: Floats) -> Detections:
        xyxy, confidence = output_format.read(outputs)
        keep = confidence >= threshold
        return Detections(np.asarray(xyxy[keep] / np.tile(scale, 2), np.float32), confidence[keep])

    def detect(pixels: Pixels) -> Detections:
        return read(*network.run(pixels, output_format.preprocessing))

    def detect_batch(frames: Sequence[Pixels]) -> list[Detections]:
        return [read(*result) for result in network.run_batch(frames, output_format.preprocessing)]

    trial = network.run(draw_people(), output_format.preprocessing)[0]
    output_format.check(trial)
    if output_format.read(trial)[1].max(initial=0.0) < MIN_TRIAL_CONFIDENCE:
        raise InputError(
            f"{path}: finds nobody on a picture with two people; use a {output_format.name} network with a class person"
        )
    name = f"{output_format.name} {path.name} {network.size[0]}x{network.size[1]}"
    return Detector(name, detect, detect_batch if _takes_batches(network, output_format) else None)


def _takes_batches(network: DetectorNetwork, output_format: OutputFormat) -> bool:
    """Whether `network` runs on two pictures at once; some say so and reshape their output to one."""
    if not network.has_free_batch:
        return False
    try:
        network.run_batch([draw_people()] * 2, output_format.preprocessing)
    except InputError:
        return False
    return True


def _find_output_format(network: DetectorNetwork) -> OutputFormat:
    empty = np.full((*network.size, 3), PADDING_GREY, np.uint8)
    outputs, _ = network.run(empty, FramePreprocessing("BGR", 1.0))
    for recognize_outputs in OUTPUT_FORMATS:
        output_format = recognize_outputs(network, outputs)
        if output_format:
            return output_format
    shapes = ", ".join(" x ".join(map(str, output.shape)) or "one number" for output in outputs)
    raise InputError(
        f"{network.path}: its output {shapes} for {network.size[0]}x{network.size[1]} pixels is no YOLOX output, nor "
        "that of YOLOv8 to YOLO26, RT-DETR or RF-DETR; export the network with its own toolkit's ONNX export"
    )
