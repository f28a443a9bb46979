"""FP16 and INT8 graphs: their number types, the layers that stay in float32, and their embeddings."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from helpers.networks import left_after_folding
from onnx import TensorProto, numpy_helper
from torch.nn import functional

from bot_deploy import open_embedder
from bot_deploy.artifacts import checkpoint
from bot_deploy.artifacts.checkpoint import Checkpoint, contract_of
from bot_deploy.datasets import open_dataset
from bot_deploy.errors import InputError
from bot_deploy.export import fp16, half_floats, int8, parity, pipeline, sensitivity
from bot_deploy.export.exported_model import ExportedModel
from bot_deploy.export.graph import inference_graph
from bot_deploy.export.steps import ExportContext, export_engine, export_onnx, prepare_export
from bot_deploy.export.to_onnx import to_onnx
from bot_deploy.model import BACKBONES, IBN, InferenceGraph, ReID

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.datasets import Dataset
    from bot_deploy.images import Pixels


@pytest.fixture(scope="module")
def fp16_file(context: ExportContext) -> Path:
    artifact = export_onnx(context, "fp16")
    assert not artifact.rejected
    assert artifact.float32_layers == ()
    return artifact.path


@pytest.fixture(scope="module")
def int8_file(context: ExportContext, exported: ExportedModel) -> Path:
    artifact = export_onnx(context, "int8", [exported])
    assert not artifact.rejected
    return artifact.path


def unbalanced(source: Path, factor: float, channels: slice, out: Path) -> Path:
    """The checkpoint `source` as the same function, with a block whose inner channels are `factor` times as large."""
    saved = checkpoint.load(source)
    state = {key: value.clone() for key, value in saved.state.items()}
    for name in ("weight", "bias"):
        state[f"backbone.layer2.0.bn1.{name}"][channels] *= factor
    state["backbone.layer2.0.conv2.weight"][:, channels] /= factor  # ReLU(a x) = a ReLU(x)
    checkpoint.save(replace(saved, state=state), out)
    return out


def cosines(first: Path, second: Path, crops: Pixels) -> Any:
    return (open_embedder(first, "cpu").run(crops) * open_embedder(second, "cpu").run(crops)).sum(1)


# ---- the graph ----


@pytest.mark.parametrize(
    "arch", [arch for arch in BACKBONES if not any(depth in arch for depth in ("34", "101", "152"))]
)
def test_folding_batch_norms_keeps_the_embeddings(arch: str) -> None:
    model, left = left_after_folding(arch)
    assert len(left) == (0 if "ibn" not in arch else sum(isinstance(module, IBN) for module in model.modules()))


def test_flip_averages_before_the_length_is_taken(checkpoint_file: Path, small_set: Dataset, tmp_path: Path) -> None:
    artifact = export_onnx(prepare_export(checkpoint_file, tmp_path, small_set, flip=True))
    assert not artifact.rejected
    embedder, saved = open_embedder(artifact.path), checkpoint.load(checkpoint_file)
    assert embedder.contract.flip
    crops = np.random.default_rng(1).integers(0, 256, (5, 64, 32, 3), dtype=np.uint8)
    graph = InferenceGraph(saved.build(), saved.contract, unit_length=False).eval()
    with torch.inference_mode():
        both = [graph(torch.from_numpy(np.ascontiguousarray(side))) for side in (crops, crops[:, :, ::-1])]
        expected = functional.normalize((both[0] + both[1]) / 2, dim=1).numpy()
        one = functional.normalize(both[0], dim=1).numpy()
    np.testing.assert_allclose(embedder.run(crops), expected, atol=1e-5)
    assert np.abs(one - expected).max() > 1e-3


def test_feature_before_the_neck(checkpoint_file: Path, small_set: Dataset, tmp_path: Path) -> None:
    saved = checkpoint.load(checkpoint_file)
    torch.manual_seed(2)
    state = {**saved.state, "neck.running_mean": torch.rand(512), "neck.running_var": 1 + torch.rand(512)}
    checkpoint.save(replace(saved, state=state), tmp_path / "model.pt")
    artifact = export_onnx(prepare_export(tmp_path / "model.pt", tmp_path, small_set, feature="before"))
    assert not artifact.rejected
    embedder = open_embedder(artifact.path)
    assert embedder.contract.feature == "before"
    crops = np.random.default_rng(1).integers(0, 256, (4, 64, 32, 3), dtype=np.uint8)
    graph = InferenceGraph(replace(saved, state=state).build(), saved.contract).eval()
    with torch.inference_mode():
        pixels = (
            torch.from_numpy(crops).permute(0, 3, 1, 2) / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        ) / (torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))
        expected = functional.normalize(graph.backbone(pixels).mean((2, 3)), dim=1).numpy()
    np.testing.assert_allclose(embedder.run(crops), expected, atol=1e-5)


def test_an_unknown_feature_is_refused(checkpoint_file: Path, small_set: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown feature 'fx'; choose from after, before") as caught:
        prepare_export(checkpoint_file, tmp_path, small_set, feature="fx")
    assert caught.value.parameter == "feature"


@pytest.mark.parametrize("opset", [11, 18, 20, 23])
def test_opset_of_the_file(opset: int, context: ExportContext, tmp_path: Path) -> None:
    to_onnx(context.graph, context.contract, tmp_path / "m.onnx", opset)
    model = onnx.load(str(tmp_path / "m.onnx"))
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == opset


@pytest.mark.parametrize("opset", [9, 10, 24])
def test_unknown_opsets_are_an_error(opset: int, context: ExportContext, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"opset {opset}: choose from 11 to 23"):
        to_onnx(context.graph, context.contract, tmp_path / "m.onnx", opset)


# ---- sensitivity of layers ----


def test_layer_errors_against_a_naive_loop(crops: Pixels) -> None:
    torch.manual_seed(0)
    model = ReID("resnet18", 3).eval()
    saved = Checkpoint(contract_of(model, 64, 32), model.state_dict(), 3, 1, "bnneck", ("none",))
    graph = inference_graph(saved, saved.contract)
    errors = sensitivity.layer_errors(
        graph, crops[:2], lambda conv, x: 1.5 * conv._conv_forward(x, conv.weight, conv.bias)
    )
    assert len(errors) == 20
    with torch.inference_mode():
        pixels = torch.from_numpy(crops[:2]).float().permute(0, 3, 1, 2) * graph.scale + graph.shift
        stem = graph.backbone.get_submodule("conv1")(pixels).numpy().astype(np.float64)
    means = [[channel.mean() for channel in stem.transpose(1, 0, 2, 3)]]
    varies = sum(float(((stem[:, c] - means[0][c]) ** 2).sum()) for c in range(stem.shape[1])) ** 0.5
    assert errors["conv1"] == pytest.approx(0.5 * float((stem**2).sum()) ** 0.5 / varies, rel=1e-4)


def test_embedding_costs_against_a_changed_copy(crops: Pixels) -> None:
    torch.manual_seed(0)
    model = ReID("resnet18", 3).eval()
    saved = Checkpoint(contract_of(model, 64, 32), model.state_dict(), 3, 1, "bnneck", ("none",))
    graph = inference_graph(saved, saved.contract)
    costs = sensitivity.embedding_costs(
        graph, crops[:3], lambda conv, x: -2 * conv._conv_forward(x, conv.weight, conv.bias)
    )
    assert len(costs) == 20
    for name in ("conv1", "layer2.0.conv2", "layer4.0.downsample.0"):
        changed = copy.deepcopy(graph)
        conv = changed.backbone.get_submodule(name)
        with torch.inference_mode():
            for values in conv.parameters():
                values.mul_(-2)
            pairs = zip(graph(torch.from_numpy(crops[:3])), changed(torch.from_numpy(crops[:3])), strict=True)
            cosine = np.mean([float(functional.cosine_similarity(a, b, dim=0)) for a, b in pairs])
        assert cosine < 0.999
        assert costs[name] == pytest.approx(1 - cosine, abs=1e-5)
    again = sensitivity.embedding_costs(graph, crops[:3], lambda conv, x: conv._conv_forward(x, conv.weight, conv.bias))
    assert max(map(abs, again.values())) < 1e-6  # no layer stays changed


# ---- FP16 ----


def test_fp16_is_in_the_types(fp16_file: Path, onnx_file: Path) -> None:
    model = onnx.load(str(fp16_file))
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convs) == 20
    assert all(types[name] == TensorProto.FLOAT16 for node in convs for name in node.input[1:])
    # Normalisation, pooling, neck and length in float32, as the casts say.
    assert all(types[name] == TensorProto.FLOAT for name in ("scale", "shift") if name in types)
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in (*onnx.shape_inference.infer_shapes(model).graph.value_info, *model.graph.output)
    }
    pooled = [
        node for node in model.graph.node if node.op_type in {"ReduceMean", "BatchNormalization", "ReduceL2", "Div"}
    ]
    assert {node.op_type for node in pooled} >= {"ReduceMean", "ReduceL2", "Div"}
    assert all(kinds[node.output[0]] == TensorProto.FLOAT for node in pooled)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert fp16_file.stat().st_size < 0.52 * onnx_file.stat().st_size
    assert open_embedder(fp16_file).contract == replace(open_embedder(onnx_file).contract, precision="fp16")
    assert not [tensor.name for tensor in model.graph.initializer if 8 in tensor.dims]  # no classifier


def test_fp16_rounds(fp16_file: Path, onnx_file: Path, crops: Pixels) -> None:
    similarity = cosines(fp16_file, onnx_file, crops)
    assert similarity.min() >= 0.999
    differ = np.abs(open_embedder(fp16_file).run(crops) - open_embedder(onnx_file).run(crops)).max()
    assert differ > 1e-6


def test_layers_that_overflow_in_fp16_stay_in_float32(
    checkpoint_file: Path,
    small_set: Dataset,
    onnx_file: Path,
    crops: Pixels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = unbalanced(checkpoint_file, 1e6, slice(None), tmp_path / "model.pt")
    context = prepare_export(source, tmp_path, small_set)
    artifact = export_onnx(context, "fp16")
    assert artifact.float32_layers == ("layer2.0.conv1", "layer2.0.conv2")
    assert not artifact.rejected
    assert cosines(artifact.path, onnx_file, crops).min() >= 0.999
    # With every layer in FP16, the parity check fails.
    monkeypatch.setattr(fp16, "to_fp16", fp16.to_fp16)
    monkeypatch.setattr(
        fp16,
        "layer_errors",
        lambda *_: dict.fromkeys(sensitivity.layer_errors(context.graph, crops[:1], fp16._imitate_fp16), 0.0),
    )
    rejected = export_onnx(context, "fp16")
    assert rejected.rejected
    assert rejected.path.name == "model.fp16.onnx.rejected"
    assert not (tmp_path / "model.fp16.onnx").exists()


# ---- INT8 ----


def test_int8_is_per_channel_and_close(int8_file: Path, onnx_file: Path, crops: Pixels) -> None:
    model = onnx.load(str(int8_file))
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    for node in convs:
        weights = made_by[node.input[1]]
        assert weights.op_type == "DequantizeLinear"
        assert values[weights.input[0]].dtype == np.int8
        assert values[weights.input[1]].shape == (values[weights.input[0]].shape[0],)  # a scale for each channel
        assert made_by[made_by[node.input[0]].input[0]].op_type == "QuantizeLinear"
    assert len(convs) == 20
    assert cosines(int8_file, onnx_file, crops).min() >= 0.97
    assert np.abs(open_embedder(int8_file).run(crops) - open_embedder(onnx_file).run(crops)).max() > 1e-4
    assert int8_file.stat().st_size < 0.3 * onnx_file.stat().st_size
    assert open_embedder(int8_file).contract.precision == "int8"


@pytest.mark.slow
def test_layers_too_sensitive_for_int8_stay_in_float32(
    checkpoint_file: Path, small_set: Dataset, onnx_file: Path, crops: Pixels, tmp_path: Path
) -> None:
    # One channel is ten thousand times as large as the others, so that INT8 rounds these to zero.
    source = unbalanced(checkpoint_file, 1e4, slice(0, 1), tmp_path / "model.pt")
    context = prepare_export(source, tmp_path, small_set)
    artifact = export_onnx(context, "int8")
    assert "layer2.0.conv2" in artifact.float32_layers
    assert len(artifact.float32_layers) == 2
    assert not artifact.rejected
    assert cosines(artifact.path, onnx_file, crops).min() >= 0.97


def test_convolutions_are_ranked_by_cost_for_each_weight(
    context: ExportContext, crops: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 9,408 weights, 36,864 and 2,359,296: a cost per weight of 1e-7, 5e-7 and 4e-9.
    costs = {"conv1": 0.00094, "layer1.0.conv1": 0.0184, "layer4.0.conv2": 0.0094}
    monkeypatch.setattr(int8, "embedding_costs", lambda *_: costs)
    assert int8._rank_layers(context.graph, costs, crops) == ["layer1.0.conv1", "conv1", "layer4.0.conv2"]


def test_int8_calibrates_on_crops_that_are_not_scored(checkpoint_file: Path, people: Path, tmp_path: Path) -> None:
    dataset = open_dataset(people)
    context = prepare_export(checkpoint_file, tmp_path, dataset)
    train = parity.sample_crops(replace(dataset, query=(), gallery=()), (64, 32), 512)
    np.testing.assert_array_equal(context.calibration, train)
    assert len(train) == len(dataset.train)


@pytest.mark.parametrize(
    ("precisions", "has_train", "is_reported"),
    [(("fp32", "int8"), False, True), (("fp32", "int8"), True, False), (("fp32", "fp16"), False, False)],
)
def test_int8_calibration_on_scored_crops_is_reported(
    precisions: tuple[str, ...],
    has_train: bool,
    is_reported: bool,
    checkpoint_file: Path,
    people: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    dataset = open_dataset(people)
    monkeypatch.setattr(pipeline, "open_dataset", lambda _: dataset if has_train else replace(dataset, train=()))
    monkeypatch.setattr(
        pipeline,
        "export_onnx",
        lambda context, precision, _: ExportedModel(tmp_path, precision, context.data_name, None, "test"),
    )
    pipeline.export(checkpoint_file, tmp_path, precisions, people)
    assert ("no training crops, so INT8 calibration uses its query and gallery" in caplog.text) == is_reported


def test_int8_for_tensorrt_is_symmetric_and_builds(
    context: ExportContext, exported: ExportedModel, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx to build an engine")
    exported = replace(exported, path=shutil.copy(exported.path, tmp_path / "model.onnx"))
    contract = replace(context.contract, precision="int8")
    int8.to_int8(
        exported.path, tmp_path / "int8.onnx", context.graph, contract, context.calibration[:32], tensorrt=True
    )
    model = onnx.load(str(tmp_path / "int8.onnx"))
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    zeros = [values[n.input[2]] for n in model.graph.node if n.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    assert zeros
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)
    assert not [name for name, value in values.items() if value.dtype == np.int32]
    # The normalisation of the pixels is in float32: in symmetric int8, 256 grey levels would share 128 steps.
    quantised = {output for node in model.graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    adding = [node for node in model.graph.node if node.op_type == "Add" and set(node.input) & set(values)]
    assert adding
    assert not any(quantised & set(node.input) for node in adding)
    # Layers compute in FP16, as the types say; neck and length in float32.
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    dequantised = {
        node.output[0]: types[node.input[1]] for node in model.graph.node if node.op_type == "DequantizeLinear"
    }
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    assert layers
    assert {(types | dequantised)[node.input[1]] for node in layers} == {TensorProto.FLOAT16}
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    artifact = export_engine(replace(context, out=tmp_path), "int8", (1, 2, 4), ["sm89"], [exported])
    assert artifact.path == tmp_path / "model.engine"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "int8.onnx", "model.engine", "model.engine.json", "model.onnx"
    ]  # fmt: skip


def test_a_float_part_that_fp16_would_spoil_stays_in_float32(
    context: ExportContext,
    exported: ExportedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def spoil(model: onnx.ModelProto) -> onnx.ModelProto:
        halved = half_floats.halve_floats(model)
        for tensor in halved.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT16 and not tensor.dims:  # scales of activations
                tensor.CopyFrom(numpy_helper.from_array(np.float16(1e4), tensor.name))
        return halved

    monkeypatch.setattr(int8, "halve_floats", spoil)
    path, contract = tmp_path / "int8.onnx", replace(context.contract, precision="int8")
    int8.to_int8(exported.path, path, context.graph, contract, context.calibration[:32], tensorrt=True)
    assert "stays in float32, because FP16 is too coarse" in caplog.text
    assert TensorProto.FLOAT16 not in {tensor.data_type for tensor in onnx.load(str(path)).graph.initializer}


@pytest.mark.parametrize("precision", ["fp16", pytest.param("int8", marks=pytest.mark.slow)])
def test_ibn_in_lower_precision(precision: str, small_set: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ReID("resnet18_ibn_a", 3).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            module.momentum = None  # statistics of all crops, so that embeddings differ between images
    crops = parity.sample_crops(small_set, (64, 32), 32)
    normed = (torch.from_numpy(crops).permute(0, 3, 1, 2) / 255 - 0.45) / 0.225
    with torch.no_grad():
        model(normed)
    saved = Checkpoint(contract_of(model, 64, 32), model.state_dict(), 3, 1, "bnneck", ("none",))
    checkpoint.save(saved, tmp_path / "model.pt")
    artifact = export_onnx(prepare_export(tmp_path / "model.pt", tmp_path, small_set), precision)
    assert artifact.parity is not None
    assert artifact.parity.min_cosine > {"fp16": 0.999, "int8": 0.95}[precision]
