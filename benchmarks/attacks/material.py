"""What is attacked: crops, a small model, its gallery and the other files, made once in a folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from bot_deploy import open_embedder
from bot_deploy.artifacts.contract import INPUT_NAME, METADATA_KEY, OUTPUT_NAME, Calibration, Contract

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.embedder import Embedder
    from bot_deploy.images import Pixels

HEIGHT, WIDTH, CELL = 32, 16, 4  # pixels of the model's input, and of the squares whose mean colours it returns
DIM = 3 * (HEIGHT // CELL) * (WIDTH // CELL)
IDENTITIES, CAMERAS, SHOTS = 4, 3, 2
CALIBRATION = Calibration(
    data="people",
    genuine_pairs=200,
    impostor_pairs=4000,
    target_false_accept_rate=0.01,
    threshold=0.6,
    reject_threshold=0.3,
    false_reject_rate=0.2,
    curve=((0.5, 0.1), (0.6, 0.01)),
)
CONTRACT = Contract(
    arch="mobilenet_v2", height=HEIGHT, width=WIDTH, dim=DIM, fingerprint="colours", calibration=CALIBRATION
)
DETECTOR_SIDE, DETECTOR_CLASSES = 96, 80
STRANGERS = 10  # identities to calibrate on
FRAME_SIDE, FRAMES_OF_A_PERSON, PASSERS_BY = 96, 14, 9  # of the street: people stand left and right in turns
STREET_FPS = 5


def draw_crop(identity: int, shot: int) -> Pixels:
    """A crop of coloured squares, by identity, with some noise."""
    squares = np.random.default_rng(identity).integers(0, 256, (8, 4, 3))
    noise = np.random.default_rng(1000 * identity + shot).normal(0, 12, (48, 24, 3))
    return np.asarray((squares.repeat(6, 0).repeat(6, 1) + noise).clip(0, 255), np.uint8)


class Material:
    """Files to attack, below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scratch = folder / "scratch"
        self.references: dict[str, Any] = {}  # results without an attack, by name

    def empty_scratch(self) -> Path:
        """An empty folder for one attack."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        return self.scratch

    @cached_property
    def crops(self) -> Path:
        """A folder of crops with Market-1501's names."""
        folder = self.folder / "crops"
        folder.mkdir()
        for identity in range(1, IDENTITIES + 1):
            for camera in range(1, CAMERAS + 1):
                for shot in range(SHOTS):
                    number = 10 * camera + shot
                    name = f"{identity:04d}_c{camera}s1_{number:06d}_00.png"
                    Image.fromarray(draw_crop(identity, number)).save(folder / name)
        return folder

    @cached_property
    def people(self) -> Path:
        """A data set in Market-1501's layout, of the same crops."""
        folder = self.folder / "people"
        for split, camera in (("bounding_box_train", 0), ("query", 1), ("bounding_box_test", 2)):
            (folder / split).mkdir(parents=True)
            for path in self.crops.iterdir():
                identity, at = int(path.name[:4]), int(path.name[6])
                if camera == 0 or (at == camera) == (split == "query"):
                    shutil.copy(path, folder / split / f"{identity + 10 * bool(camera):04d}{path.name[4:]}")
        return folder

    @cached_property
    def strangers(self) -> Path:
        """A data set in Market-1501's layout with enough people to calibrate on."""
        folder = self.folder / "strangers"
        for split in ("bounding_box_train", "query", "bounding_box_test"):
            (folder / split).mkdir(parents=True)
        for identity, camera, shot in product(range(101, 103 + STRANGERS), range(1, CAMERAS + 1), range(SHOTS)):
            split = "query" if camera == 1 else "bounding_box_test"
            split = "bounding_box_train" if identity > 100 + STRANGERS else split
            name = f"{identity:04d}_c{camera}s1_{10 * camera + shot:06d}_00.png"
            Image.fromarray(draw_crop(identity, 10 * camera + shot)).save(folder / split / name)
        return folder

    @cached_property
    def street(self) -> Path:
        """A folder of frames; one person after the other stands left or right, where `street_detector` finds them."""
        folder = self.folder / "street"
        folder.mkdir()
        for number in range(PASSERS_BY * FRAMES_OF_A_PERSON):
            person = number // FRAMES_OF_A_PERSON
            frame = np.zeros((FRAME_SIDE, FRAME_SIDE, 3), np.uint8)
            left = 6 + FRAME_SIDE // 2 * (person % 2)
            crop = np.asarray(Image.fromarray(draw_crop(200 + person, number)).resize((36, 84)))
            frame[6:90, left : left + 36] = crop
            Image.fromarray(frame).save(folder / f"{number:04d}.png")
        return folder

    @cached_property
    def street_detector(self) -> Path:
        """A network with YOLOX's input and output that finds who stands left or right on the frames of `street`."""
        return write_street_detector(self.folder / "street.onnx")

    @cached_property
    def model(self) -> Path:
        """An ONNX model: the mean colours of squares."""
        return write_model(self.folder / "model.onnx", CONTRACT)

    @cached_property
    def embedder(self) -> Embedder:
        return open_embedder(self.model, "cpu", threads=1)

    @cached_property
    def gallery(self) -> Path:
        """An index of the crops."""
        from bot_deploy.gallery import index_folder, open_or_create_index

        path = self.folder / "people.gallery"
        with open_or_create_index(str(path), CONTRACT, self.crops) as gallery:
            index_folder(gallery, self.crops, self.embedder)
        return path

    @cached_property
    def detector(self) -> Path:
        """A network with YOLOX's input and output that finds one person everywhere."""
        return write_detector(self.folder / "detector.onnx")


def write_model(path: Path, contract: Contract) -> Path:
    from onnx import TensorProto, helper, numpy_helper, save

    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weights"], ["squares"], strides=[CELL, CELL], group=3),
        helper.make_node("Flatten", ["squares"], ["means"]),
        helper.make_node("Add", ["means", "centre"], ["centred"]),
        helper.make_node("LpNormalization", ["centred"], [OUTPUT_NAME], axis=1, p=2),
    ]
    constants = [
        numpy_helper.from_array(np.full((3, 1, CELL, CELL), 1 / CELL**2, np.float32), "weights"),
        numpy_helper.from_array(np.linspace(-120, -135, DIM, dtype=np.float32), "centre"),
    ]
    inputs = [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["N", HEIGHT, WIDTH, 3])]
    outputs = [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", DIM])]
    graph = helper.make_graph(nodes, "colours", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    save(model, str(path))
    return path


def set_contract(path: Path, text: str, new: Path) -> Path:
    """Writes the model `path` to `new` with the contract `text`, whatever it says."""
    import onnx

    model = onnx.load(str(path))
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, text
    onnx.save(model, str(new))
    return new


def write_detector(path: Path) -> Path:
    from onnx import TensorProto, helper, numpy_helper, save

    side = DETECTOR_SIDE
    cells = sum((side // stride) ** 2 for stride in (8, 16, 32))
    table = np.zeros((1, cells, 5 + DETECTOR_CLASSES), np.float32)
    table[0, 0] = [48, 48, 45, 90, 0.9, 0.9, *[0] * (DETECTOR_CLASSES - 1)]
    nodes = [
        helper.make_node("ReduceMax", ["images"], ["brightest"], keepdims=0),
        helper.make_node("Mul", ["brightest", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "table"], ["output"]),
    ]
    constants = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.float32([0.0]), "zero")]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, side, side])]
    outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, list(table.shape))]
    graph = helper.make_graph(nodes, "detector", inputs, outputs, constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


def write_street_detector(path: Path) -> Path:
    """Boxes left and right, whose objectness is the brightness of their half of the frame."""
    from onnx import TensorProto, helper, numpy_helper, save

    side = DETECTOR_SIDE
    cells = sum((side // stride) ** 2 for stride in (8, 16, 32))
    boxes = np.float32([[[24, 48, 36, 84], [72, 48, 36, 84]]])
    classes = np.zeros((1, 2, DETECTOR_CLASSES), np.float32)
    classes[:, :, 0] = 1
    constants = {"boxes": boxes, "classes": classes, "rest": np.zeros((1, cells - 2, 5 + DETECTOR_CLASSES), np.float32)}
    constants |= {"scale": np.float32([1 / 255]), "shape": np.int64([1, 2, 1]), "channels": np.int64([1])}
    nodes = [
        helper.make_node("ReduceMax", ["images", "channels"], ["grey"], keepdims=1),
        helper.make_node("MaxPool", ["grey"], ["halves"], kernel_shape=[side, side // 2], strides=[side, side // 2]),
        helper.make_node("Mul", ["halves", "scale"], ["bright"]),
        helper.make_node("Reshape", ["bright", "shape"], ["objectness"]),
        helper.make_node("Concat", ["boxes", "objectness", "classes"], ["people"], axis=2),
        helper.make_node("Concat", ["people", "rest"], ["output"], axis=1),
    ]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, side, side])]
    outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, cells, 5 + DETECTOR_CLASSES])]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "street", inputs, outputs, tensors)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


def contract_fields(contract: Contract = CONTRACT, **changes: Any) -> Any:
    """The fields of a contract as JSON holds them."""
    return json.loads(replace(contract, **changes).to_json())
