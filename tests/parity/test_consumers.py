"""Files for other programs: each is fed as the program feeds it, by the program's own libraries where they are here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
import yaml
from google.protobuf import text_format
from helpers.commands import run_bot
from helpers.triton_server import triton_model_config

from bot_deploy import open_embedder
from bot_deploy.artifacts import read_contract
from bot_deploy.artifacts.contract import Contract, from_json
from bot_deploy.backends import nvidia
from bot_deploy.backends.onnxruntime import open_session
from bot_deploy.choices import CONSUMERS
from bot_deploy.datasets import open_dataset
from bot_deploy.errors import InputError
from bot_deploy.export import consumers, export, make_consumer
from bot_deploy.export.exported_model import ExportedModel
from bot_deploy.export.program_files import triton_config
from bot_deploy.export.wrap import wrap_model

SIZE = (64, 32)
CONTRACT = Contract(arch="none", height=SIZE[0], width=SIZE[1], dim=2, fingerprint="none")
MEAN, STD = (np.array(values).reshape(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
# Crops in the size of the model and in others.
CROPS = [
    np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for index, (height, width) in enumerate([SIZE, SIZE, (128, 64), (150, 61), (40, 20)])
]


def of_ultralytics(crop: np.ndarray) -> np.ndarray:
    planes = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255.0
    return torch.nn.functional.interpolate(planes, SIZE, mode="bilinear", align_corners=False)[0].numpy()


def of_boxmot(crop: np.ndarray) -> np.ndarray:
    resized = cv2.resize(crop, SIZE[::-1], interpolation=cv2.INTER_LINEAR)
    return (resized.transpose(2, 0, 1) / 255 - MEAN) / STD


def of_opencv(crop: np.ndarray) -> np.ndarray:
    bgr = np.ascontiguousarray(crop[..., ::-1])
    return cv2.dnn.blobFromImage(bgr, 1.0, SIZE[::-1], swapRB=True)[0]


def of_deepstream(crop: np.ndarray, block: dict[str, Any] | None = None) -> np.ndarray:
    """What the keys of the block ask for: netScaleFactor * (pixel - offset)."""
    block = block or {"netScaleFactor": 1.0, "offsets": [0, 0, 0]}
    resized = cv2.resize(crop, SIZE[::-1], interpolation=cv2.INTER_LINEAR).transpose(2, 0, 1).astype(np.float64)
    return block["netScaleFactor"] * (resized - np.array(block["offsets"]).reshape(3, 1, 1))


PROGRAMS = {
    "ultralytics": (of_ultralytics, 1 / 255),
    "boxmot": (of_boxmot, 1 / 255 / STD.min()),
    "opencv": (of_opencv, 1.0),
    "deepstream": (of_deepstream, 1.0),
}


@pytest.fixture(scope="module")
def made(onnx_file: Path, few_people: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExportedModel]:
    """`onnx_file`, exported for each program."""
    folder = tmp_path_factory.mktemp("programs")
    return {name: export(onnx_file, folder, data=few_people, consumer=make_consumer(name))[0] for name in CONSUMERS}


def rows_of(model: ExportedModel, inputs: np.ndarray) -> np.ndarray:
    session = open_session(model.path, "cpu", 0)
    rows = session.run(None, {session.get_inputs()[0].name: np.asarray(inputs, np.float32)})[0]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("name", PROGRAMS)
def test_crops_are_prepared_as_the_program_does(name: str) -> None:
    theirs, grey_level = PROGRAMS[name]
    for crop in CROPS:
        ours = consumers.KNOWN[name].prepare(crop, CONTRACT)
        assert ours.dtype == np.float32
        exact = crop.shape[:2] == SIZE  # a resize rounds
        assert np.abs(ours - theirs(crop)).max() <= (1e-3 if exact else 1.01) * grey_level


def test_every_program_has_its_file(made: dict[str, ExportedModel]) -> None:
    assert [model.path.name for model in made.values()] == [f"model.{name}.onnx" for name in CONSUMERS]
    for model in made.values():
        assert model.parity
        assert model.parity.passed
        assert model.parity.min_cosine > 0.99999
    # Those that resize as we do have no skew; those that do not, differ on crops of 128x64.
    assert {name for name, model in made.items() if model.resize_skew is None} == {"triton", "plain"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_gets_what_pytorch_gives(
    name: str, made: dict[str, ExportedModel], checkpoint_file: Path, crops: np.ndarray
) -> None:
    inputs = np.stack([PROGRAMS[name][0](crop) for crop in crops])
    reference = open_embedder(checkpoint_file).run(crops)
    np.testing.assert_allclose(rows_of(made[name], inputs), reference, atol=1e-5)
    # The wrong preprocessing would show: these embeddings are not all alike.
    assert np.abs(rows_of(made[name], inputs[:, ::-1]) - reference).max() > 1e-3


def test_opencv_runs_its_file(made: dict[str, ExportedModel], checkpoint_file: Path, crops: np.ndarray) -> None:
    network = cv2.dnn.readNetFromONNX(str(made["opencv"].path))
    bgr = [np.ascontiguousarray(crop[..., ::-1]) for crop in crops]
    network.setInput(cv2.dnn.blobFromImages(bgr, 1.0, SIZE[::-1], swapRB=True))
    np.testing.assert_allclose(network.forward(), open_embedder(checkpoint_file).run(crops), atol=1e-5)
    graph = onnx.load(str(made["opencv"].path)).graph
    sizes = {tensor.name: list(tensor.dims[2:]) for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert convolutions
    for node in convolutions:  # OpenCV 4.10 needs it
        shape = next(list(attribute.ints) for attribute in node.attribute if attribute.name == "kernel_shape")
        assert shape == sizes.get(node.input[1], shape)


@pytest.mark.parametrize(
    ("name", "shape", "opset"),
    [
        ("ultralytics", ["N", 3, 64, 32], 17),
        ("boxmot", ["N", 3, 64, 32], 17),
        ("deepstream", ["N", 3, 64, 32], 17),
        ("triton", ["N", 64, 32, 3], 18),
        ("opencv", ["N", 3, 64, 32], 17),
        ("plain", ["N", 3, 64, 32], 17),
    ],
)
def test_shape_type_and_opset(name: str, shape: list[object], opset: int, made: dict[str, ExportedModel]) -> None:
    model = onnx.load(str(made[name].path))
    (images,) = model.graph.input
    assert images.name == "images"
    assert [dim.dim_value or dim.dim_param for dim in images.type.tensor_type.shape.dim] == shape
    types = onnx.TensorProto
    assert images.type.tensor_type.elem_type == (types.UINT8 if name == "triton" else types.FLOAT)
    assert [entry.version for entry in model.opset_import] == [opset]
    # The two transposes of an NCHW input cancel out.
    assert [node.op_type for node in model.graph.node].count("Transpose") == (1 if name == "triton" else 0)


def test_bot_opens_only_the_file_that_takes_bytes(made: dict[str, ExportedModel], onnx_file: Path) -> None:
    assert read_contract(made["triton"].path) == read_contract(onnx_file)
    with pytest.raises(InputError, match=r"made for another program, which feeds it floats; name the model\.onnx"):
        read_contract(made["boxmot"].path)
    entries = {entry.key: entry.value for entry in onnx.load(str(made["boxmot"].path)).metadata_props}
    described = json.loads(entries["bot_deploy.front"])
    assert (described["consumer"], described["layout"], described["pixel_range"]) == (
        "boxmot",
        "float-nchw",
        "imagenet",
    )
    assert described["contract"] == json.loads(read_contract(onnx_file).to_json())


@pytest.mark.parametrize(
    ("options", "factor", "offset"),
    [
        ({"pixel_range": "0-255"}, 1.0, 0.0),
        ({"pixel_range": "0-1"}, 1 / 255, 0.0),
        ({"pixel_range": "imagenet", "unit_length": False}, 1 / (255 * STD), -MEAN / STD),
        ({"layout": "uint8-nhwc", "unit_length": False}, None, None),
    ],
)
def test_plain_takes_what_is_asked(
    options: dict[str, Any], factor: Any, offset: Any, onnx_file: Path, few_people: Path, tmp_path: Path, crops: Any
) -> None:
    (model,) = export(onnx_file, tmp_path, data=few_people, consumer=make_consumer("plain", **options))
    session = open_session(model.path, "cpu", 0)
    inputs = crops if factor is None else (crops.transpose(0, 3, 1, 2) * factor + offset).astype(np.float32)
    rows = session.run(None, {"images": inputs})[0]
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.abs(lengths - 1).max() < 1e-5 or options.get("unit_length") is False
    np.testing.assert_allclose(rows / lengths, open_embedder(onnx_file).run(crops), atol=1e-5)


def test_a_static_batch_and_an_old_opset(onnx_file: Path, few_people: Path, tmp_path: Path, crops: Any) -> None:
    consumer = make_consumer("ultralytics", batch=4, unit_length=False)
    (model,) = export(onnx_file, tmp_path, data=few_people, consumer=consumer, opset=11)
    graph = onnx.load(str(model.path))
    assert [entry.version for entry in graph.opset_import] == [11]
    assert graph.ir_version == 6  # that of ONNX 1.6, which brought opset 11
    session = open_session(model.path, "cpu", 0)
    assert session.get_inputs()[0].shape == [4, 3, 64, 32]
    assert session.get_outputs()[0].shape == [4, 512]
    inputs = np.stack([of_ultralytics(crop) for crop in crops[:4]])
    np.testing.assert_allclose(rows_of(model, inputs), open_embedder(onnx_file).run(crops[:4]), atol=1e-5)
    assert np.abs(np.linalg.norm(session.run(None, {"images": inputs})[0], axis=1) - 1).max() > 0.1


def test_a_checkpoint_gives_both_files(checkpoint_file: Path, few_people: Path, tmp_path: Path, crops: Any) -> None:
    dataset = replace(open_dataset(few_people), query=(), gallery=())  # nothing to score on
    exported = export(checkpoint_file, tmp_path, data=dataset, consumer=make_consumer("boxmot"), opset=11)
    assert [model.path.name for model in exported] == ["model.onnx", "model.boxmot.onnx"]
    for model in exported:
        assert [entry.version for entry in onnx.load(str(model.path)).opset_import] == [11]
    reference = open_embedder(checkpoint_file).run(crops)
    np.testing.assert_allclose(open_embedder(exported[0].path).run(crops), reference, atol=2e-6)
    inputs = np.stack([of_boxmot(crop) for crop in crops])
    np.testing.assert_allclose(rows_of(exported[1], inputs), reference, atol=1e-5)


def test_a_wrapped_model_of_another_colour(few_people: Path, tmp_path: Path, crops: Any) -> None:
    """Its graph swaps the channels of [N, H, W, 3], so the transposes stay."""
    source = tmp_path / "theirs.onnx"
    weights = np.random.default_rng(1).normal(size=(3 * 64 * 32, 8)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Flatten", ["x"], ["rows"]),
        onnx.helper.make_node("MatMul", ["rows", "weights"], ["vectors"]),
    ]
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "theirs",
        [onnx.helper.make_tensor_value_info("x", float32, ["N", 3, 64, 32])],
        [onnx.helper.make_tensor_value_info("vectors", float32, ["N", 8])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), str(source))
    wrapped = wrap_model(source, tmp_path / "model.onnx", color="BGR", mean=(1, 2, 3), data=few_people)
    (model,) = export(wrapped.path, data=few_people, consumer=make_consumer("ultralytics"))
    assert model.path == tmp_path / "model.ultralytics.onnx"
    flat = (crops[..., ::-1].astype(np.float64) - [1, 2, 3]).transpose(0, 3, 1, 2).reshape(len(crops), -1)
    expected = flat @ weights
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    inputs = np.stack([of_ultralytics(crop) for crop in crops])
    np.testing.assert_allclose(rows_of(model, inputs), expected, atol=1e-5)


def test_wrong_preprocessing_fails_parity(
    onnx_file: Path, few_people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped = consumers.Consumer(
        "boxmot",
        consumers.KNOWN["boxmot"].front,
        lambda crop, contract: consumers.prepare_boxmot(crop[..., ::-1], contract),
    )
    monkeypatch.setitem(consumers.KNOWN, "boxmot", swapped)
    (model,) = export(onnx_file, tmp_path, data=few_people, consumer=make_consumer("boxmot"))
    assert model.rejected
    assert [path.name for path in tmp_path.iterdir()] == ["model.boxmot.onnx.rejected"]


def test_the_skew_of_the_resize_is_measured(
    onnx_file: Path, few_people: Path, made: dict[str, ExportedModel], tmp_path: Path
) -> None:
    """Against the same by hand, of crops read from their files."""
    files = sorted(few_people.rglob("*.jpg"))
    skew = made["boxmot"].resize_skew
    assert skew
    assert skew.crops == min(64, len(files))
    ours, session = open_embedder(onnx_file), open_session(made["boxmot"].path, "cpu", 0)
    inputs = np.stack([of_boxmot(cv2.imread(str(file))[..., ::-1]) for file in files]).astype(np.float32)
    cosines = (session.run(None, {"images": inputs})[0] * ours.embed(files)).sum(1)
    assert skew.mean_cosine == pytest.approx(cosines.mean(), abs=2e-4)
    assert skew.min_cosine >= cosines.min() - 1e-4
    assert skew.mean_cosine < 0.99999  # the synthetic crops are larger than the model's input


DEEPSTREAM_KEYS = {  # of the block ReID in the configurations that NVIDIA ships with DeepStream
    *("reidType", "batchSize", "workspaceSize", "reidFeatureSize", "reidHistorySize", "inferDims", "networkMode"),
    *("inputOrder", "colorFormat", "offsets", "netScaleFactor", "keepAspc", "addFeatureNormalization", "onnxFile"),
    "modelEngineFile",
}


def test_the_block_of_deepstream_describes_its_file(
    made: dict[str, ExportedModel], checkpoint_file: Path, crops: np.ndarray
) -> None:
    (path,) = made["deepstream"].files
    text = path.read_text()
    assert text.startswith("%YAML:1.0\n")  # OpenCV's form of the line, which PyYAML does not read
    block = yaml.safe_load(text.partition("\n")[2])["ReID"]
    assert set(block) == DEEPSTREAM_KEYS
    assert block["onnxFile"] == made["deepstream"].path.name
    assert block["inferDims"] == [3, *SIZE]
    assert (block["inputOrder"], block["colorFormat"], block["keepAspc"], block["addFeatureNormalization"]) == (
        0,
        0,
        0,
        1,
    )
    session = open_session(made["deepstream"].path, "cpu", 0)
    rows = session.run(None, {"images": np.stack([of_deepstream(crop, block) for crop in crops]).astype(np.float32)})[0]
    assert rows.shape == (len(crops), block["reidFeatureSize"])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)  # addFeatureNormalization
    np.testing.assert_allclose(rows, open_embedder(checkpoint_file).run(crops), atol=1e-5)


def test_tensorrt_reads_the_file_of_deepstream(made: dict[str, ExportedModel]) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx, whose parser stands for that of DeepStream")
    trt, logger = nvidia.load_tensorrt("tensorrt-rtx")
    network = trt.Builder(logger).create_network(0)
    assert trt.OnnxParser(network, logger).parse(made["deepstream"].path.read_bytes())
    assert tuple(network.get_input(0).shape) == (-1, 3, *SIZE)
    assert tuple(network.get_output(0).shape) == (-1, 512)


def test_the_repository_of_triton(made: dict[str, ExportedModel]) -> None:
    config, model = made["triton"].files
    folder = made["triton"].path.parent / "triton" / "reid"
    assert (config, model) == (folder / "config.pbtxt", folder / "1" / "model.onnx")
    assert model.read_bytes() == made["triton"].path.read_bytes()
    parsed = text_format.Parse(config.read_text(), triton_model_config()())
    assert (parsed.name, parsed.platform) == (folder.name, "onnxruntime_onnx")
    assert parsed.max_batch_size > 1
    assert parsed.dynamic_batching.max_queue_delay_microseconds > 0
    stored = parsed.parameters["bot_deploy.contract"].string_value
    assert from_json(stored, "config.pbtxt") == read_contract(model)
    session = open_session(model, "cpu", 0)
    for described, value in ((parsed.input, session.get_inputs()), (parsed.output, session.get_outputs())):
        assert [(one.name, list(one.dims)) for one in described] == [(one.name, one.shape[1:]) for one in value]
    assert (parsed.input[0].data_type, parsed.output[0].data_type) == (2, 11)


def test_input_and_length_on_the_command_line(onnx_file: Path, few_people: Path, tmp_path: Path) -> None:
    done = run_bot(
        "export", onnx_file, "--input", "uint8-nhwc", "--no-unit", "--data", few_people, "-o", tmp_path, "--json"
    )
    assert done.returncode == 0, done.stderr
    artifact = json.loads(done.stdout)["artifacts"][-1]
    assert (Path(artifact["path"]).name, artifact["parity"]["passed"]) == ("model.plain.onnx", True)
    session = open_session(tmp_path / "model.plain.onnx", "cpu", 0)
    (taken,) = session.get_inputs()
    assert (taken.type, taken.shape[1:]) == ("tensor(uint8)", [*SIZE, 3])
    crops = np.stack([cv2.resize(crop, SIZE[::-1]) for crop in CROPS])
    rows = session.run(None, {taken.name: crops})[0]
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.abs(lengths - 1).min() > 0.1
    np.testing.assert_allclose(rows / lengths, open_embedder(onnx_file).run(crops), atol=1e-5)


def test_the_schema_of_triton_refuses_an_unknown_field() -> None:
    text = triton_config(CONTRACT, "reid", "onnxruntime_onnx", 8)
    with pytest.raises(text_format.ParseError, match="no field named"):
        text_format.Parse(text.replace("max_batch_size", "max_batch"), triton_model_config()())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bot", {}, "'bot': choose from ultralytics, boxmot, deepstream, triton, opencv, plain"),
        ("plain", {"layout": "nchw"}, "'nchw': choose from uint8-nhwc, float-nchw"),
        ("plain", {"layout": "uint8-nhwc", "pixel_range": "0-1"}, "bytes are from 0 to 255, not in the range 0-1"),
        ("ultralytics", {"pixel_range": "imagenet"}, "ultralytics takes 0-1; imagenet is for other programs"),
        ("boxmot", {"layout": "uint8-nhwc"}, "boxmot takes float-nchw; uint8-nhwc is for other programs"),
        ("triton", {"batch": 4}, "Triton makes batches of any size"),
        ("plain", {"batch": 0}, "0 is not a number from 1 to 65536"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_consumer(name, **options)


def test_an_exported_model_has_no_other_precision(onnx_file: Path) -> None:
    with pytest.raises(InputError, match="is exported already; name its checkpoint"):
        export(onnx_file, precisions=("fp32", "fp16"), consumer=make_consumer("boxmot"))
    with pytest.raises(InputError, match="FP16 and INT8 need opset 18 or newer"):
        export(onnx_file, precisions=("fp32", "int8"), opset=13)


def test_a_network_of_integers_is_refused(few_people: Path, tmp_path: Path) -> None:
    """A wrapped network that takes bytes has no cast in front that floats could replace."""
    nodes = [
        onnx.helper.make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2]),
        onnx.helper.make_node("Cast", ["planes"], ["floats"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("GlobalAveragePool", ["floats"], ["means"]),
        onnx.helper.make_node("Flatten", ["means"], ["rows"]),
        onnx.helper.make_node("ReduceL2", ["rows"], ["lengths"], axes=[1], keepdims=1),
        onnx.helper.make_node("Div", ["rows", "lengths"], ["embeddings"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "bytes",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["N", *SIZE, 3])],
        [onnx.helper.make_tensor_value_info("embeddings", onnx.TensorProto.FLOAT, ["N", 3])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    contract = Contract(arch="bytes", height=SIZE[0], width=SIZE[1], dim=3, fingerprint="bytes")
    onnx.helper.set_model_props(model, {"bot_deploy.contract": contract.to_json()})
    onnx.save(model, str(tmp_path / "model.onnx"))
    with pytest.raises(InputError, match="takes integers, so it cannot be fed floats"):
        export(tmp_path / "model.onnx", data=few_people, consumer=make_consumer("boxmot"))
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_the_command(onnx_file: Path, few_people: Path, tmp_path: Path) -> None:
    done = run_bot(
        "export", onnx_file, "--range", "0-1", "--batch-static", "2", "--data", few_people, "--out", tmp_path, "--json"
    )
    assert done.returncode == 0, done.stderr
    (artifact,) = json.loads(done.stdout)["artifacts"]
    assert artifact["path"] == str(tmp_path / "model.plain.onnx")
    assert artifact["parity"]["passed"] is True
    assert (artifact["resize_skew"], artifact["files"]) == (None, [])
    assert "writing for plain: float32 [N, 3, 64, 32], RGB, 0-1, 2 images; unit vectors" in done.stderr
    assert f"parity with {onnx_file} on" in done.stderr
    refused = run_bot("export", onnx_file, "--for", "boxmot", "--range", "0-1")
    assert refused.returncode == 2
    assert "boxmot takes imagenet; 0-1 is for other programs, `plain` (--range)" in refused.stderr
