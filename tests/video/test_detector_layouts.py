"""Detectors of other toolkits, as small networks with the outputs that these document."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from bot_deploy.errors import InputError
from bot_deploy.video.detectors import onnx_detector, open_detector

if TYPE_CHECKING:
    from pathlib import Path

SIZE = (64, 96)
CELLS = 126  # 8x12 + 4x6 + 2x3
COCO = str({0: "person", 1: "bicycle", 2: "car", **{number: f"thing {number}" for number in range(3, 80)}})
THEIRS = {"author": "Ultralytics", "task": "detect", "names": COCO}
# A person of 20x60 pixels around (60, 40) on a frame of 128x192, and a car; in pixels of the input, half of that.
PERSON_XYWH, CAR_XYWH = (30, 20, 10, 30), (70, 40, 20, 20)
PERSON_XYXY, CAR_XYXY = (25, 5, 35, 35), (60, 30, 80, 50)
ON_FRAME = [50, 10, 70, 70]
SHARES = np.array([96, 64, 96, 64])
FRAME = np.zeros((128, 192, 3), np.uint8)


@pytest.fixture(autouse=True)
def _quick_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks here return the same for every picture, so the trial picture need not be drawn."""
    monkeypatch.setattr(onnx_detector, "draw_people", lambda: FRAME)


def write(
    path: Path,
    outputs: dict[str, np.ndarray],
    metadata: dict[str, str] | None = None,
    size: tuple[int | str, int | str] = SIZE,
    kind: int = TensorProto.FLOAT,
    second_input: bool = False,
) -> Path:
    """A network that returns `outputs` for every picture."""
    nodes = [helper.make_node("Identity", [f"constant {name}"], [name]) for name in outputs]
    constants = [
        numpy_helper.from_array(value if value.dtype == np.int64 else value.astype(np.float32), f"constant {name}")
        for name, value in outputs.items()
    ]
    inputs = [helper.make_tensor_value_info("images", kind, [1, 3, *size])]
    if second_input:
        inputs.append(helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, [1, 2]))
    infos = [
        helper.make_tensor_value_info(
            name, TensorProto.INT64 if value.dtype == np.int64 else TensorProto.FLOAT, value.shape
        )
        for name, value in outputs.items()
    ]
    graph = helper.make_graph(nodes, "g", inputs, infos, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path


def yolov8(classes: int = 80, extra: int = 0, person: int = 0) -> np.ndarray:
    """[1, 4 + classes, cells]: a car is likelier to be a car than a person."""
    output = np.zeros((1, 4 + classes + extra, CELLS))
    output[0, :4, 5], output[0, 4 + person, 5] = PERSON_XYWH, 0.8
    if classes > 2:
        output[0, :4, 9], output[0, 4 + 2, 9] = CAR_XYWH, 0.9
    return output


def end_to_end(columns: int = 6) -> np.ndarray:
    """[1, 300, 6]: NMS inside."""
    output = np.zeros((1, 300, columns))
    output[0, 0, :6], output[0, 1, :6] = (*CAR_XYXY, 0.9, 2), (*PERSON_XYXY, 0.8, 0)
    return output


def detr_boxes() -> np.ndarray:
    output = np.full((1, 300, 4), 0.5)
    output[0, 3], output[0, 7] = PERSON_XYWH / SHARES, CAR_XYWH / SHARES
    return output


def logits(classes: int, person: int, car: int) -> np.ndarray:
    output = np.full((1, 300, classes), -9.0)
    output[0, 3, person], output[0, 7, car] = np.log(0.8 / 0.2), 3  # the logistic function of log(p / (1 - p)) is p
    return output


def rtdetr_of_ultralytics() -> np.ndarray:
    output = np.zeros((1, 300, 84))
    output[0, 3, :4], output[0, 3, 4] = PERSON_XYWH / SHARES, 0.8
    output[0, 7, :4], output[0, 7, 6] = CAR_XYWH / SHARES, 0.9
    return output


def finished() -> dict[str, np.ndarray]:
    return {
        "labels": np.array([[2, 0]], np.int64),
        "boxes": np.array([[CAR_XYXY, PERSON_XYXY]], np.float64),
        "scores": np.array([[0.9, 0.8]]),
    }


POSE = {"author": "Ultralytics", "task": "pose", "names": "{0: 'person'}"}
CAR_FIRST = {"author": "Ultralytics", "task": "detect", "names": "{0: 'car', 1: 'person'}"}
CASES = {
    "YOLOv8": ({"output0": yolov8()}, THEIRS, "YOLO"),
    "YOLOv8 without metadata": ({"output0": yolov8()}, {}, "YOLO"),
    "two classes": ({"output0": yolov8(2, person=1)}, CAR_FIRST, "YOLO"),
    "pose": ({"output0": yolov8(1, extra=51)}, POSE, "YOLO"),
    "segmentation": (
        {"output0": yolov8(extra=32), "output1": np.zeros((1, 32, 16, 24))},
        {**THEIRS, "task": "segment"},
        "YOLO",
    ),
    "YOLO26": ({"output0": end_to_end()}, THEIRS, "YOLO"),
    "NMS inside, without metadata": ({"output0": end_to_end()}, {}, "YOLO"),
    "pose of YOLO26": ({"output0": end_to_end(57)}, POSE, "YOLO"),
    "RT-DETR of Ultralytics": ({"output0": rtdetr_of_ultralytics()}, THEIRS, "RT-DETR"),
    "RT-DETR": ({"logits": logits(80, 0, 2), "pred_boxes": detr_boxes()}, {}, "RT-DETR"),
    "RT-DETR, other names": ({"boxes": detr_boxes(), "scores": logits(80, 0, 2)}, {}, "RT-DETR"),
    "RF-DETR": ({"dets": detr_boxes(), "labels": logits(91, 1, 3)}, {}, "RF-DETR"),
    "RF-DETR, one class": ({"dets": detr_boxes(), "labels": logits(2, 0, 1)}, {}, "RF-DETR"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_person_is_found_and_the_car_is_not(case: str, tmp_path: Path) -> None:
    outputs, metadata, name = CASES[case]
    detector = open_detector(write(tmp_path / "d.onnx", outputs, metadata), min_height=1)
    assert detector.name == f"{name} d.onnx 64x96"
    detections = detector.detect(FRAME)
    np.testing.assert_allclose(detections.xyxy, [ON_FRAME], rtol=1e-5)
    np.testing.assert_allclose(detections.confidence, [0.8], rtol=1e-5)


def test_rtdetr_with_post_processing_inside(tmp_path: Path) -> None:
    detector = open_detector(write(tmp_path / "d.onnx", finished(), second_input=True), min_height=1)
    np.testing.assert_allclose(detector.detect(FRAME).xyxy, [ON_FRAME], rtol=1e-5)


def test_networks_of_any_size_get_the_size_of_their_metadata(tmp_path: Path) -> None:
    metadata = {**THEIRS, "imgsz": "[64, 96]"}
    detector = open_detector(write(tmp_path / "d.onnx", {"output0": yolov8()}, metadata, ("h", "w")), min_height=1)
    np.testing.assert_allclose(detector.detect(FRAME).xyxy, [ON_FRAME], rtol=1e-5)
    free = write(tmp_path / "free.onnx", {"logits": logits(80, 0, 2), "pred_boxes": detr_boxes()}, size=("h", "w"))
    assert open_detector(free).name.endswith("640x640")


# A frame of one colour (10, 20, 30): what the network gets, and whether the frame is stretched.
INPUTS = {
    "YOLOv8": (np.array([10, 20, 30]) / 255, False),
    "RT-DETR": (np.array([10, 20, 30]) / 255, True),
    "RT-DETR of Ultralytics": (np.array([10, 20, 30]) / 255, True),
    "RF-DETR": ((np.array([10, 20, 30]) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], True),
}


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
@pytest.mark.parametrize("case", INPUTS)
def test_the_input(case: str, kind: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, metadata, _ = CASES[case]
    colour, is_stretched = INPUTS[case]
    path = write(tmp_path / "d.onnx", outputs, metadata, kind=kind)
    fed: list[np.ndarray] = []
    run = ort.InferenceSession.run

    def spy(self: ort.InferenceSession, names: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        fed.append(feed["images"])
        return run(self, names, feed)  # type: ignore[no-any-return]

    monkeypatch.setattr(ort.InferenceSession, "run", spy)
    detector = open_detector(path, min_height=1)
    detector.detect(np.full((32, 96, 3), (10, 20, 30), np.uint8))  # half as high as the input
    batch = fed[-1]
    assert batch.shape == (1, 3, *SIZE)
    assert batch.dtype == (np.float32 if kind == TensorProto.FLOAT else np.float16)
    picture = batch[0].transpose(1, 2, 0).astype(np.float64)
    np.testing.assert_allclose(picture[:32], np.broadcast_to(colour, (32, 96, 3)), rtol=2e-3)
    below = colour if is_stretched else np.full(3, 114 / 255)
    np.testing.assert_allclose(picture[32:], np.broadcast_to(below, (32, 96, 3)), rtol=2e-3)


@pytest.mark.parametrize(
    ("outputs", "metadata", "message"),
    [
        ({"output0": yolov8()}, {**THEIRS, "names": "{0: 'cat', 1: 'dog'}"}, "has no class person, but cat, dog"),
        ({"output0": np.zeros((1, 1000))}, {**THEIRS, "task": "classify"}, "for the task 'classify', which gives no"),
        ({"output0": yolov8() * 0}, THEIRS, "finds nobody on a picture with two people; use a YOLO network"),
        ({"dets": detr_boxes(), "labels": logits(91, 2, 3)}, {}, "finds nobody .* use a RF-DETR network"),
        ({"output0": np.zeros((1, 300, 7))}, {}, "300 x 7 for 64x96 pixels is no YOLOX output, nor that of YOLOv8"),
        ({"a": np.zeros((1, 5, 3)), "b": np.zeros((1, 4, 4))}, {}, "5 x 3, 4 x 4 for 64x96 pixels is no YOLOX output"),
    ],
)
def test_what_is_no_detector_of_people_gives_one_line(
    outputs: dict[str, np.ndarray], metadata: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_detector(write(tmp_path / "d.onnx", outputs, metadata))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("names", ["{", "[1", "{'a': 1}", "3", "__import__('os')", "(" * 5000])
def test_damaged_metadata_do_no_harm(names: str, tmp_path: Path) -> None:
    metadata = {**THEIRS, "names": names, "imgsz": "many"}
    detector = open_detector(write(tmp_path / "d.onnx", {"output0": yolov8()}, metadata), min_height=1)
    np.testing.assert_allclose(detector.detect(FRAME).xyxy, [ON_FRAME], rtol=1e-5)
