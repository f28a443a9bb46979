"""Detectors: HOG, a small network with YOLOX's output, and the real YOLOX where the shared data has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bot_deploy import images
from bot_deploy.errors import InputError
from bot_deploy.video.detectors import Detections, open_detector
from bot_deploy.video.detectors.detections import filter_detections
from bot_deploy.video.detectors.network import DetectorNetwork
from bot_deploy.video.detectors.trial_picture import draw_people
from bot_deploy.video.detectors.yolox import decode, grid

SHARED = Path(__file__).parents[3] / "shared"
YOLOX = SHARED / "detector" / "yolox_nano_416.onnx"
SIZE = (64, 96)  # of the small network


def network(
    path: Path,
    output: np.ndarray,
    size: tuple[int | str, int | str] = SIZE,
    kind: int = TensorProto.FLOAT,
    count: int | str = 1,
) -> Path:
    """A network that returns `output`, plus 1e-9 times the mean of its picture so that it uses its input."""
    nodes = [
        helper.make_node("Cast", ["images"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["real"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "tiny"], ["little"]),
        helper.make_node("Add", ["constant", "little"], ["output"]),
    ]
    constants = [
        numpy_helper.from_array(np.asarray(output, np.float32), "constant"),
        numpy_helper.from_array(np.float32(1e-9), "tiny"),
    ]
    inputs = [helper.make_tensor_value_info("images", kind, [count, 3, *size])]
    outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def cells() -> list[tuple[int, int, int]]:
    """(column, row, stride) of each cell of the small network, by loops."""
    return [
        (column, row, stride)
        for stride in (8, 16, 32)
        for row in range(SIZE[0] // stride)
        for column in range(SIZE[1] // stride)
    ]


def raw(*people: tuple[float, float, float, float, float, float]) -> np.ndarray:
    """The raw output for people given as (x, y, width, height in pixels, objectness, class score)."""
    output = np.zeros((1, len(cells()), 7), np.float32)
    for number, (x, y, width, height, objectness, person) in enumerate(people):
        column, row, stride = cells()[number]
        sides = [np.log(width / stride), np.log(height / stride)]
        output[0, number] = [x / stride - column, y / stride - row, *sides, objectness, person, 0.99]
    return output


def test_the_grid_equals_a_loop() -> None:
    places, strides = grid(SIZE, (8, 16, 32))
    expected = np.array(cells(), np.float32)
    np.testing.assert_array_equal(places, expected[:, :2])
    np.testing.assert_array_equal(strides, expected[:, 2])


def test_decode_equals_a_calculation_by_hand() -> None:
    output = np.array([[0.5, 0.25, 0.0, np.log(3)]], np.float32)
    box = decode(output, np.array([[2, 1]], np.float32), np.array([16], np.float32))
    np.testing.assert_allclose(box, [[40, 20, 16, 48]], rtol=1e-6)


@pytest.mark.parametrize("scale", [1, 3])
def test_boxes_are_in_pixels_of_the_frame(tmp_path: Path, scale: int) -> None:
    """The frame is wider than the input, at the same size and three times as large."""
    people = raw((30, 20, 10, 30, 0.9, 0.8), (70, 25, 12, 20, 0.9, 0.5), (50, 20, 9, 33, 0.5, 0.3))
    detector = open_detector(network(tmp_path / "d.onnx", people), min_height=1)
    assert "64x96" in detector.name
    detections = detector.detect(np.zeros((48 * scale, 96 * scale, 3), np.uint8))
    expected = np.array([[25, 5, 35, 35], [64, 15, 76, 35]]) * scale
    np.testing.assert_allclose(detections.xyxy, expected, rtol=1e-4)
    np.testing.assert_allclose(detections.confidence, [0.72, 0.45], rtol=1e-4)


def test_a_network_that_decodes_by_itself(tmp_path: Path) -> None:
    output = np.zeros((1, len(cells()), 6), np.float32)
    output[0, :, :2] = np.array(cells(), np.float32)[:, :2] * 8
    output[0, 5] = [30, 20, 10, 30, 0.9, 0.8]
    detections = open_detector(network(tmp_path / "d.onnx", output), min_height=1).detect(
        np.zeros((*SIZE, 3), np.uint8)
    )
    np.testing.assert_allclose(detections.xyxy, [[25, 5, 35, 35]], rtol=1e-4)


def test_a_network_of_free_batch_size_gets_all_frames_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its output is that of one picture, repeated for each."""
    path = network(tmp_path / "d.onnx", raw((30, 20, 10, 30, 0.9, 0.8)), count="N")
    assert open_detector(path).detect_batch is None  # it says so, and gives one output whatever it gets
    model = onnx.load(path)
    model.graph.node[1].CopyFrom(helper.make_node("ReduceMean", ["real"], ["mean"], axes=[2, 3], keepdims=0))
    model.graph.node[2].CopyFrom(helper.make_node("Mul", ["mean", "tiny"], ["little"]))
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.full((3, 1), 1e-9, np.float32), "tiny"))
    model.graph.node[2].op_type = "MatMul"  # [N, 3] to [N, 1], and so [N, 1, 1] below
    model.graph.node.insert(3, helper.make_node("Unsqueeze", ["little", "last"], ["each"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([2], np.int64), "last"))
    model.graph.node[4].input[1] = "each"
    onnx.save(model, path)
    detector = open_detector(path, min_height=1)
    frames = [np.full((48 * scale, 96 * scale, 3), 90, np.uint8) for scale in (1, 3, 2)]
    sizes: list[int] = []
    run = DetectorNetwork.run_batch
    monkeypatch.setattr(
        DetectorNetwork, "run_batch", lambda self, batch, how: (sizes.append(len(batch)), run(self, batch, how))[1]
    )
    together = detector.detect_all(frames)
    assert sizes == [3]
    for found, pixels, scale in zip(together, frames, (1, 3, 2), strict=True):
        np.testing.assert_allclose(found.xyxy, np.array([[25, 5, 35, 35]]) * scale, rtol=1e-4)
        np.testing.assert_array_equal(found.xyxy, detector.detect(pixels).xyxy)


def test_a_maximum_height_below_the_minimum_is_refused() -> None:
    with pytest.raises(InputError, match="at least 80 and at most 60 pixels"):
        open_detector(min_height=80, max_height=60)


def test_the_input_is_bgr_at_the_upper_left_with_grey_padding(tmp_path: Path) -> None:
    """A spy on the session sees the input: BGR, 0-255, at the upper left, grey 114 around."""
    network(tmp_path / "d.onnx", raw((30, 20, 10, 30, 0.9, 0.8)))
    inputs: list[np.ndarray] = []
    import onnxruntime as ort

    run = ort.InferenceSession.run

    def spy(self: ort.InferenceSession, names: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        inputs.append(feed["images"])
        return run(self, names, feed)  # type: ignore[no-any-return]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ort.InferenceSession, "run", spy)
        detector = open_detector(tmp_path / "d.onnx", min_confidence=1.0)
        detector.detect(np.full((40, 96, 3), (10, 20, 30), np.uint8))
    fed = inputs[-1]
    assert (fed.shape, fed.dtype) == ((1, 3, *SIZE), np.float32)
    assert (fed[0, :, :40] == np.array([30, 20, 10])[:, None, None]).all()
    assert (fed[0, :, 40:] == 114).all()


def test_an_error_without_a_message_is_named_by_its_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network(tmp_path / "d.onnx", raw())
    import onnxruntime as ort

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ort.InferenceSession, "run", fail)
    with pytest.raises(InputError, match=r"d\.onnx: cannot run on one picture \(MemoryError\)"):
        open_detector(tmp_path / "d.onnx")


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    if across <= 0 or down <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(across * down / (sum(areas) - across * down))


def test_of_overlapping_boxes_the_highest_score_stays() -> None:
    rng = np.random.default_rng(0)
    corner, sides = rng.uniform(0, 300, (80, 2)), rng.uniform(30, 120, (80, 2))
    corners = np.hstack([corner, corner + sides]).astype(np.float32)
    scores = rng.permutation(np.linspace(0.2, 0.9, 80)).astype(np.float32)
    found = filter_detections(Detections(corners, scores), 0.4, (1, 1000), (1000, 1000))
    chosen: list[int] = []
    for number in np.argsort(-scores):
        if all(overlap(corners[number], corners[other]) <= 0.4 for other in chosen):
            chosen.append(int(number))
    assert 5 < len(chosen) < 80
    np.testing.assert_array_equal(found.xyxy, corners[chosen])
    np.testing.assert_array_equal(found.confidence, scores[chosen])


def test_heights_count_inside_the_frame() -> None:
    corners = np.array([[10, -50, 40, 30], [50, 0, 90, 59], [100, 0, 140, 61], [150, 0, 150.4, 80]], np.float32)
    found = filter_detections(Detections(corners, np.full(4, 0.9, np.float32)), 0.5, (30, 60), (200, 200))
    np.testing.assert_array_equal(found.xyxy, [[10, 0, 40, 30], [50, 0, 90, 59]])
    empty = filter_detections(
        Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32)), 0.5, (30, 60), (200, 200)
    )
    assert (empty.xyxy.shape, empty.confidence.shape) == ((0, 4), (0,))


def test_files_that_are_no_detector_give_one_line(tmp_path: Path) -> None:
    (tmp_path / "noise.onnx").write_bytes(b"no network")
    good = raw((30, 20, 10, 30, 0.9, 0.8))
    for path, message in (
        (tmp_path / "weights.pt", r"not a known kind of detector; known: hog, \*\.onnx, yolox-nano"),
        (tmp_path / "none.onnx", "no such detector"),
        (tmp_path / "noise.onnx", "not an ONNX model"),
        (network(tmp_path / "cells.onnx", good[:, :-1]), "no YOLOX output"),
        (network(tmp_path / "free.onnx", good, ("h", "w")), "no fixed size"),
        (network(tmp_path / "bytes.onnx", good, kind=TensorProto.UINT8), "not float pictures"),
        (network(tmp_path / "batch.onnx", good, count=4), "cannot run on one picture"),
        (network(tmp_path / "one.onnx", np.float32(1)), "no YOLOX output|cannot run"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            open_detector(path)
        assert "\n" not in str(caught.value)


def test_a_transposed_yolov8_graph_is_refused(tmp_path: Path) -> None:
    """Its output [1, cells, 84] has the form of YOLOX's, but a class score in place of objectness."""
    output = np.zeros((1, len(cells()), 84), np.float32)
    output[0, 5, :5] = [30, 20, 10, 30, 0.9]  # a certain person
    with pytest.raises(InputError, match="84 columns, without objectness, as YOLOv8's has, and YOLOX's has 85"):
        open_detector(network(tmp_path / "d.onnx", output))


@pytest.mark.parametrize("classes", [1, 2, 80])
def test_a_network_that_finds_nobody_is_refused(classes: int, tmp_path: Path) -> None:
    output = np.zeros((1, len(cells()), 5 + classes), np.float32)
    output[0, 5, :5] = [30, 20, 10, 30, 0.9]
    output[0, 5, 5] = 0.05
    with pytest.raises(InputError, match="finds nobody on a picture with two people"):
        open_detector(network(tmp_path / "d.onnx", output))


@pytest.mark.parametrize("score", [1.5, -0.5, np.nan, np.inf, 114.0])
def test_scores_outside_0_to_1_are_refused(score: float, tmp_path: Path) -> None:
    output = raw((30, 20, 10, 30, 0.9, 0.8))
    output[0, 9, 4] = score
    with pytest.raises(InputError, match="scores that are not between 0 and 1"):
        open_detector(network(tmp_path / "d.onnx", output))


def test_the_trial_picture_shows_two_people() -> None:
    pixels = draw_people()
    assert (pixels.shape, pixels.dtype) == ((360, 640, 3), np.uint8)
    np.testing.assert_array_equal(pixels, draw_people())
    assert len(open_detector("hog").detect(pixels).confidence) >= 1
    yolox = open_detector(shared("detector/yolox_nano_416.onnx"), min_confidence=0.5)
    assert len(yolox.detect(pixels).confidence) == 2


def test_hog_finds_no_person_on_an_empty_picture() -> None:
    detector = open_detector("hog")
    for shape in ((240, 320, 3), (20, 20, 3), (2000, 300, 3)):
        assert len(detector.detect(np.full(shape, 90, np.uint8)).confidence) == 0


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {name} from the shared data")
    return path


def test_yolox_finds_the_person_of_a_query_crop() -> None:
    """Market-1501's crop 0001_c1s1_001051_00 was cut from this frame; only one place of it looks like the crop."""
    import cv2

    yolox, scene = shared("detector/yolox_nano_416.onnx"), shared("media/market_scene")
    frame = images.read_image(scene / "c1s1_001051.jpg")
    crop = images.read_image(scene / "query" / "0001_c1s1_001051_00.jpg")
    best, where = -1.0, (0, 0, 0, 0)
    for height in range(200, 500, 20):  # the crop was shrunk to 128 rows
        small = cv2.resize(frame, None, fx=128 / height, fy=128 / height, interpolation=cv2.INTER_AREA)
        score, place = cv2.minMaxLoc(cv2.matchTemplate(small, crop, cv2.TM_CCOEFF_NORMED))[1::2]
        if score > best:
            left, top = (side * height / 128 for side in place)
            best, where = score, (left, top, left + height / 2, top + height)
    assert best > 0.8
    detections = open_detector(yolox).detect(frame)
    assert max(overlap(np.array(where), corners) for corners in detections.xyxy) > 0.5


def test_hog_and_yolox_agree_on_a_real_frame() -> None:
    yolox, film = shared("detector/yolox_nano_416.onnx"), shared("media/one-by-one-person-detection.mp4")
    from bot_deploy.video.sources import open_source

    with open_source(str(film)) as source:
        frame = next(frame for frame in source if frame.number == 840)
    hog, network_ = open_detector("hog").detect(frame.pixels), open_detector(yolox).detect(frame.pixels)
    assert len(network_.confidence) == 1
    assert max(overlap(corners, network_.xyxy[0]) for corners in hog.xyxy) > 0.5
