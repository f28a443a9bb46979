"""`bot wrap`: models of other toolkits become artifacts, checked against formulas and against the originals."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from helpers.commands import run_bot
from onnx import TensorProto, helper, numpy_helper

from bot_deploy import open_embedder, read_image
from bot_deploy.artifacts import read_contract, write_contract
from bot_deploy.choices import BACKENDS
from bot_deploy.errors import InputError
from bot_deploy.export import export, make_consumer
from bot_deploy.export.wrap import wrap_model
from bot_deploy.images import resize

HEIGHT, WIDTH, CELLS, DIM = 32, 16, 8, 12
CROPS = np.random.default_rng(3).integers(0, 256, (5, HEIGHT, WIDTH, 3), dtype=np.uint8)
# Each cell of 4x16 pixels and each channel has its own weight.
PROJECTION = np.random.default_rng(4).normal(size=(CELLS * 3, DIM)).astype(np.float32)


def write_model(
    path: Path,
    *,
    batch: int | str = "batch",
    layout: str = "NCHW",
    opset: int = 17,
    output_rank: int = 2,
    float_type: int = TensorProto.FLOAT,
    baked: str = "",
    outputs: int = 1,
) -> Path:
    """A model with one vector for each image: means of cells, times PROJECTION.

    `baked` is "reshape" for a reshape with the batch size in it, "slice" for an operator that keeps only that batch.
    """
    nchw = "images" if layout == "NCHW" else "nchw"
    constants = {"projection": PROJECTION.astype(helper.tensor_dtype_to_np_dtype(float_type))}
    nodes = [] if layout == "NCHW" else [helper.make_node("Transpose", ["images"], [nchw], perm=[0, 3, 1, 2])]
    nodes.append(helper.make_node("AveragePool", [nchw], ["cells"], kernel_shape=[4, WIDTH], strides=[4, WIDTH]))
    if baked:
        constants["shape"] = np.array([batch, CELLS * 3], np.int64)
        nodes.append(helper.make_node("Reshape", ["cells", "shape"], ["rows"]))
    else:
        nodes.append(helper.make_node("Flatten", ["cells"], ["rows"], axis=1))
    if baked == "slice":  # adds a table with one row for each image of the fixed batch
        constants["table"] = np.zeros((int(batch), CELLS * 3), np.float32)
        nodes.append(helper.make_node("Concat", ["rows", "table"], ["both"], axis=0))
        constants |= {"start": np.array([0]), "end": np.array([int(batch)])}
        nodes.append(helper.make_node("Slice", ["both", "start", "end"], ["first"]))
    final = "vectors" if output_rank == 2 else "flat"
    nodes.append(helper.make_node("MatMul", ["first" if baked == "slice" else "rows", "projection"], [final]))
    if output_rank == 4:
        constants["axes"] = np.array([2, 3], np.int64)
        nodes.append(helper.make_node("Unsqueeze", ["flat", "axes"], ["vectors"]))
    dims = [batch, 3, HEIGHT, WIDTH] if layout == "NCHW" else [batch, HEIGHT, WIDTH, 3]
    out = [helper.make_tensor_value_info("vectors", float_type, [batch, DIM, 1, 1][:output_rank])]
    if outputs > 1:
        nodes.append(helper.make_node("Relu", ["vectors"], ["logits"]))
        out.append(helper.make_tensor_value_info("logits", float_type, [batch, DIM]))
    graph = helper.make_graph(
        nodes,
        "reid",
        [helper.make_tensor_value_info("images", float_type, dims)],
        out,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def expected(
    crops: npt.NDArray[np.uint8], color: str = "RGB", divisor: float = 1.0, mean: Any = 0.0, std: Any = 1.0
) -> npt.NDArray[np.float64]:
    """The embeddings of `crops` by the formula."""
    ordered = crops[..., ::-1] if color == "BGR" else crops
    pixels = (ordered / divisor - np.array(mean)) / np.array(std)
    cells = pixels.reshape(len(crops), CELLS, 4, WIDTH, 3).mean((2, 3))  # [N, cells, 3]
    vectors = cells.transpose(0, 2, 1).reshape(len(crops), -1) @ PROJECTION.astype(np.float64)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("color", "pixel_range", "mean", "std"),
    [
        ("RGB", "0-255", (0.0,), (1.0,)),
        ("BGR", "0-255", (0.0,), (1.0,)),
        ("RGB", "0-1", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("BGR", "0-1", (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)),
        ("BGR", "0-255", (104.0, 117.0, 123.0), (57.0, 58.0, 59.0)),
    ],
)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_the_artifact_does_the_preprocessing(
    color: str, pixel_range: str, mean: Any, std: Any, layout: str, people: Path, tmp_path: Path
) -> None:
    source = write_model(tmp_path / "theirs.onnx", layout=layout)
    options: dict[str, Any] = {"color": color, "pixel_range": pixel_range, "mean": mean, "std": std}
    artifact = wrap_model(source, tmp_path / "ours.onnx", data=people, **options)
    assert not artifact.rejected
    embedder = open_embedder(artifact.path)
    divisor = 255.0 if pixel_range == "0-1" else 1.0
    formula = expected(CROPS, color, divisor, mean, std)
    assert np.abs(embedder.run(CROPS) - formula).max() < 1e-5
    # The contract describes the same preprocessing, in RGB order and for pixels from 0 to 1.
    contract = embedder.contract
    assert (
        np.abs(expected(CROPS[..., ::-1] if color == "BGR" else CROPS, "RGB", divisor, mean, std) - formula).max()
        < 1e-9
    )
    in_rgb = (CROPS / 255 - np.array(contract.mean)) / np.array(contract.std)
    direct = ((CROPS[..., ::-1] if color == "BGR" else CROPS) / divisor - np.array(mean)) / np.array(std)
    assert np.allclose(in_rgb[..., ::-1] if color == "BGR" else in_rgb, direct, atol=1e-6)


@pytest.mark.parametrize("opset", [9, 13, 17, 18, 21])
def test_opsets_of_the_original_are_kept(opset: int, people: Path, tmp_path: Path) -> None:
    artifact = wrap_model(write_model(tmp_path / "theirs.onnx", opset=opset), tmp_path / "ours.onnx", data=people)
    assert not artifact.rejected
    assert onnx.load(artifact.path).opset_import[0].version == opset
    assert np.abs(open_embedder(artifact.path).run(CROPS) - expected(CROPS)).max() < 1e-5


@pytest.mark.parametrize(("batch", "baked", "freed"), [(1, "", True), (1, "reshape", True), (4, "slice", False)])
def test_a_fixed_batch_size_becomes_any(batch: int, baked: str, freed: bool, people: Path, tmp_path: Path) -> None:
    source = write_model(tmp_path / "theirs.onnx", batch=batch, baked=baked)
    artifact = wrap_model(source, tmp_path / "ours.onnx", data=people)
    assert not artifact.rejected
    dim = onnx.load(artifact.path).graph.input[0].type.tensor_type.shape.dim[0]
    assert bool(dim.dim_param) == freed
    for device in ("cpu", "openvino"):
        embedder = open_embedder(artifact.path, device)
        for count in (1, 2, 5):
            assert np.abs(embedder.run(CROPS[:count]) - expected(CROPS[:count])).max() < 1e-5, (device, count)


def test_a_graph_for_one_number_of_images_is_exported_for_others(people: Path, tmp_path: Path) -> None:
    """The file for another program takes the same number; a program that needs any is refused."""
    source = write_model(tmp_path / "theirs.onnx", batch=2, baked="slice")
    wrapped = wrap_model(source, tmp_path / "ours.onnx", data=people).path
    assert onnx.load(wrapped).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    (made,) = export(wrapped, tmp_path, data=people, consumer=make_consumer("boxmot"))
    assert not made.rejected
    assert onnx.load(made.path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    with pytest.raises(InputError, match="takes 2 images at a time, and Triton makes batches of any size"):
        export(wrapped, tmp_path, data=people, consumer=make_consumer("triton"))
    with pytest.raises(InputError, match="takes 2 images at a time, and no other number"):
        export(wrapped, tmp_path, data=people, consumer=make_consumer("plain", batch=4))


def test_vectors_with_trailing_ones_and_half_floats(people: Path, tmp_path: Path) -> None:
    spatial = wrap_model(write_model(tmp_path / "a.onnx", output_rank=4), tmp_path / "a2.onnx", data=people)
    assert np.abs(open_embedder(spatial.path).run(CROPS) - expected(CROPS)).max() < 1e-5
    half = wrap_model(
        write_model(tmp_path / "b.onnx", float_type=TensorProto.FLOAT16),
        tmp_path / "b2.onnx",
        data=people,
        pixel_range="0-1",
    )
    assert read_contract(half.path).precision == "fp16"
    assert np.abs(open_embedder(half.path).run(CROPS) - expected(CROPS, divisor=255)).max() < 5e-3


def test_openvino_ir(people: Path, tmp_path: Path) -> None:
    import openvino as ov

    source = write_model(tmp_path / "theirs.onnx", batch=1, baked="reshape")
    ir = tmp_path / "theirs.xml"
    ov.save_model(ov.convert_model(str(source)), str(ir), compress_to_fp16=False)
    artifact = wrap_model(ir, tmp_path / "ours" / "model.xml", color="BGR", data=people)
    assert not artifact.rejected
    embedder = open_embedder(artifact.path)
    for count in (1, 2, 5):
        assert np.abs(embedder.run(CROPS[:count]) - expected(CROPS[:count], "BGR")).max() < 1e-5
    assert sorted(file.name for file in artifact.path.parent.iterdir()) == ["model.bin", "model.xml"]
    # The contract can be replaced, and the graph stays the same.
    from dataclasses import replace

    contract = replace(embedder.contract, arch="another")
    write_contract(artifact.path, contract)
    assert read_contract(artifact.path) == contract
    assert np.array_equal(open_embedder(artifact.path).run(CROPS), embedder.run(CROPS))
    weights = artifact.path.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(InputError, match="is not the file that it was written with"):
        open_embedder(artifact.path)
    weights.unlink()
    with pytest.raises(InputError, match="is not beside it"):
        read_contract(artifact.path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"<net", "damaged"),
        (b"<other/>", "not an OpenVINO IR"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><net>&b;</net>', "entities"),
        (b"<net/>", "no contract inside"),
        (b'<net><rt_info><bot_deploy><contract value="{}"/></bot_deploy></rt_info></net>', "contract"),
        (b"<net><rt_info><bot_deploy/></rt_info></net>", "contract is missing"),
    ],
)
def test_damaged_irs_are_refused(text: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.xml"
    path.write_bytes(text)
    with pytest.raises(InputError, match=message):
        read_contract(path)


def test_what_does_not_fit_is_refused(people: Path, tmp_path: Path, onnx_file: Path) -> None:
    out = tmp_path / "ours.onnx"
    theirs = write_model(tmp_path / "theirs.onnx")

    def refuses(message: str, source: Path = theirs, **options: Any) -> None:
        with pytest.raises(InputError, match=message):
            wrap_model(source, out, data=people, **options)
        assert not out.exists()

    refuses("takes crops of 32x16", size=(256, 128))
    refuses("std", std=(0.0,))
    refuses("std", std=(float("nan"),))
    refuses("one number or three", mean=(1.0, 2.0))
    refuses("color", color="CMYK")
    refuses("has no output 'logits'", output_name="logits")
    refuses("has a contract already", onnx_file)
    refuses("2 outputs", write_model(tmp_path / "two.onnx", outputs=2))
    refuses("no such model", tmp_path / "none.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(theirs.read_bytes()[:200])
    refuses("damaged", broken)
    refuses("files can be wrapped", tmp_path / "x.pth")
    for name, inputs, outputs, nodes, message in (
        ("grey", {"x": [1, 1, 8, 8]}, {"y": [1, 1, 8, 8]}, [("Relu", "x", "y")], "no batch of colour images"),
        ("rows", {"x": [1, 3]}, {"y": [1, 3]}, [("Relu", "x", "y")], "no batch of colour images"),
        ("map", {"x": [1, 3, 8, 8]}, {"y": [1, 3, 8, 8]}, [("Relu", "x", "y")], "lacks pooling"),
        ("pair", {"x": [1, 3, 8, 8], "z": [1]}, {"y": [1, 3, 8, 8]}, [("Relu", "x", "y")], "has 2 inputs"),
    ):
        refuses(message, _graph(tmp_path / f"{name}.onnx", inputs, outputs, nodes))


def _graph(path: Path, inputs: Any, outputs: Any, nodes: Any) -> Path:
    infos = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in values.items()]
        for values in (inputs, outputs)
    ]
    graph = helper.make_graph([helper.make_node(kind, [a], [b]) for kind, a, b in nodes], "g", *infos)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_an_output_can_be_named(people: Path, tmp_path: Path) -> None:
    source = write_model(tmp_path / "two.onnx", outputs=2)
    artifact = wrap_model(source, tmp_path / "ours.onnx", data=people, output_name="vectors")
    assert np.abs(open_embedder(artifact.path).run(CROPS) - expected(CROPS)).max() < 1e-5


def test_other_preprocessing_is_another_embedding_space(people: Path, tmp_path: Path) -> None:
    source = write_model(tmp_path / "theirs.onnx")
    spaces = {
        read_contract(wrap_model(source, tmp_path / f"{color}.onnx", color=color, data=people).path).embedding_space
        for color in ("RGB", "BGR")
    }
    assert len(spaces) == 2


def test_a_graph_whose_embeddings_differ_is_rejected(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bot_deploy.export import wrap_onnx

    original = wrap_onnx.ForeignOnnx._front

    def wrong(self: Any, preprocessing: Any, end: str) -> Any:
        from dataclasses import replace

        return original(self, replace(preprocessing, color="BGR"), end)

    monkeypatch.setattr(wrap_onnx.ForeignOnnx, "_front", wrong)
    artifact = wrap_model(write_model(tmp_path / "theirs.onnx"), tmp_path / "ours.onnx", data=people)
    assert artifact.rejected
    assert artifact.path.name == "ours.onnx.rejected"
    assert not (tmp_path / "ours.onnx").exists()


def test_the_command_and_those_that_open_its_model(people: Path, tmp_path: Path) -> None:
    source = write_model(tmp_path / "theirs.onnx", batch=1)
    out = tmp_path / "ours.onnx"
    done = run_bot("wrap", source, "--size", "32x16", "--range", "0-1", "--mean", "0.5", "--std", "0.5,0.5,0.5",
                   "--data", people, "--out", out, "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parity"]["passed"]
    scores = run_bot("eval", out, "--data", people, "--json", XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert scores.returncode == 0, scores.stderr
    assert json.loads(scores.stdout)["queries"] > 0
    crops = sorted(people.rglob("*.jpg"))
    match = run_bot("match", crops[0], crops[0].parent, "--model", out, "--json", cwd=tmp_path)
    assert match.returncode == 0, match.stderr
    assert json.loads(match.stdout)["matches"]
    verified = run_bot("verify", out, out, "--data", people)
    assert verified.returncode == 0, verified.stderr
    wrong = run_bot("wrap", source, "--size", "big", "--out", out)
    assert wrong.returncode == 2
    assert "256x128" in wrong.stderr


def test_a_wrapped_model_is_indexed_calibrated_and_measured(people: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours.onnx"
    how: dict[str, Any] = {"size": (HEIGHT, WIDTH), "pixel_range": "0-1", "mean": (0.5,), "std": (0.5,)}
    assert not wrap_model(write_model(tmp_path / "theirs.onnx"), out, data=people, **how).rejected

    said: list[str] = []

    def run(*words: object) -> Any:
        done = run_bot(*words, "--json", cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"))
        assert done.returncode == 0, done.stderr
        said.append(done.stderr)
        return json.loads(done.stdout)

    crops = sorted((people / "bounding_box_test").glob("*.jpg"))
    indexed = run("index", people / "bounding_box_test", "--model", out, "-o", "people.gallery")
    assert (indexed["new"], indexed["broken"]) == (len(crops), 0)
    calibrated = run("calibrate", out, "--data", people, "--far", 0.05)
    stored = read_contract(out).calibration
    assert stored
    assert stored.threshold == pytest.approx(calibrated["threshold"], abs=1e-4)
    assert stored.reject_threshold < stored.threshold < 1
    assert calibrated["impostor_pairs"] > 1000

    # The calibrated model still reads the gallery, and scores are those of the formula.
    query = sorted((people / "query").glob("*.jpg"))[0]
    found = run("match", query, "people.gallery", "--model", out, "--top", 3)
    pixels = np.stack([resize(read_image(path), (HEIGHT, WIDTH)) for path in (query, *crops)])
    vectors = expected(pixels, divisor=255.0, mean=0.5, std=0.5)
    scores = np.sort(vectors[1:] @ vectors[0])[::-1]
    np.testing.assert_allclose([match["score"] for match in found["matches"]], scores[:3], atol=2e-3)
    best = found["matches"][0]["score"]
    assert best > stored.threshold
    assert found["verdict"].startswith(f"match: the best score is {best:.3f} (false-accept rate ")

    measured = run("bench", out, "--device", "cpu", "--batches", "1,2", "--seconds", 0.05)
    (entry,) = measured["entries"]
    assert (entry["device"], measured["baselines"]) == ("cpu", [])
    assert "no baseline: wrapped:theirs is no network that is trained here\n" in said[-1]
    for part in ("model_only", "with_decoding"):
        assert set(entry[part]["images_per_second"]) == {"1", "2"}
        assert min(entry[part]["images_per_second"].values()) > 0


def test_suffixes_agree() -> None:
    from bot_deploy.artifacts import FILE_MODULES

    assert set(FILE_MODULES) == set(BACKENDS)


def test_the_anchor(shared: Path, tmp_path: Path) -> None:
    source = shared / "anchors/person-reidentification-retail-0265/person-reidentification-retail-0265.xml"
    with zipfile.ZipFile(shared / "data/VIPeR.v1.0.zip") as archive:
        pictures = [name for name in archive.namelist() if name.endswith(".bmp")]
        archive.extractall(tmp_path / "crops", pictures[::40])  # 32 of them: the network is a large one
    artifact = wrap_model(source, tmp_path / "model.xml", size=(256, 128), color="BGR", data=tmp_path / "crops")
    assert artifact.parity
    assert artifact.parity.crops > 30
    assert artifact.parity.min_cosine > 0.99999
    contract = read_contract(artifact.path)
    assert (contract.size, contract.dim) == ((256, 128), 256)
    assert np.allclose(contract.std, 1 / 255)

    # The pictures as a gallery, searched for one of them.
    crops = sorted((tmp_path / "crops").rglob("*.bmp"))
    indexed = run_bot(
        "index", tmp_path / "crops", "--model", artifact.path, "-o", "viper.gallery", "--json", cwd=tmp_path
    )
    assert indexed.returncode == 0, indexed.stderr
    assert json.loads(indexed.stdout)["new"] == len(crops)
    match = run_bot("match", crops[5], "viper.gallery", "--model", artifact.path, "--top", "2", "--json", cwd=tmp_path)
    assert match.returncode == 0, match.stderr
    first, second = json.loads(match.stdout)["matches"]
    assert Path(first["path"]).name == crops[5].name
    assert first["score"] == pytest.approx(1, abs=1e-3)
    vectors = open_embedder(artifact.path).embed(crops)
    assert second["score"] == pytest.approx(np.sort(vectors @ vectors[5])[-2], abs=2e-3)
    assert second["score"] < 0.95
