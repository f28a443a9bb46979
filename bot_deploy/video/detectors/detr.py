"""RT-DETR and RF-DETR as their own toolkits and Transformers export them; the outputs show which it is.

- boxes [queries, 4] as centre x, centre y, width, height, in shares of the picture, and logits [queries, classes]:
  RT-DETR has 80 classes (person is 0), takes RGB from 0 to 1; names such as pred_boxes and logits, or boxes and scores
- the same of RF-DETR, named dets and labels: 91 classes (person is 1, as COCO numbers them), ImageNet's mean and std
- RT-DETR and its kin with post-processing inside: labels [queries], boxes [queries, 4] in pixels, scores [queries]

All take the frame stretched to a square.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.choices import MEAN, STD

from .network import FramePreprocessing
from .output_format import OutputFormat, corners, sigmoid

if TYPE_CHECKING:
    from .detections import Floats
    from .network import DetectorNetwork

BOX_VALUES = 4
COCO_IDS, PERSON_OF_COCO_IDS = 91, 1  # classes by the numbers that COCO gives them, with gaps
RF_DETR_NAMES = ("dets", "labels")
STRETCHED = FramePreprocessing(keeps_aspect=False)
STRETCHED_IMAGENET = FramePreprocessing(mean=MEAN, std=STD, keeps_aspect=False)


def recognize_outputs(network: DetectorNetwork, outputs: list[Floats]) -> OutputFormat | None:
    """The output format of `network`, by its outputs for one picture; None if it is no network of this kind."""
    named = dict(zip(network.output_names, range(len(outputs)), strict=True))
    shapes = [output.shape for output in outputs]
    if {"labels", "boxes", "scores"} <= set(named) and len(shapes[named["scores"]]) == 1:
        return _finished(named)
    tables = [number for number, shape in enumerate(shapes) if len(shape) == 2]  # noqa: PLR2004
    boxes = next((number for number in tables if shapes[number][1] == BOX_VALUES), None)
    logits = next((n for n in tables if n != boxes and boxes is not None and shapes[n][0] == shapes[boxes][0]), None)
    if boxes is None or logits is None:
        return None
    is_rf = set(RF_DETR_NAMES) <= set(named)
    if is_rf:
        boxes, logits = (named[name] for name in RF_DETR_NAMES)
    has_coco_ids = shapes[logits][1] == COCO_IDS
    person = PERSON_OF_COCO_IDS if has_coco_ids else 0
    size = np.array([network.size[1], network.size[0]] * 2, np.float32)

    def read(outputs: list[Floats]) -> tuple[Floats, Floats]:
        return corners(outputs[boxes] * size), sigmoid(outputs[logits][:, person])

    is_rf = is_rf or has_coco_ids
    return OutputFormat("RF-DETR" if is_rf else "RT-DETR", STRETCHED_IMAGENET if is_rf else STRETCHED, read)


def _finished(named: dict[str, int]) -> OutputFormat:
    def read(outputs: list[Floats]) -> tuple[Floats, Floats]:
        is_person = outputs[named["labels"]].round() == 0
        return outputs[named["boxes"]], np.where(is_person, outputs[named["scores"]], np.float32(0))

    return OutputFormat("RT-DETR", STRETCHED, read)
