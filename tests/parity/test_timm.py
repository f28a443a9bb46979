"""Backbones of timm from training to INT8: every precision against PyTorch."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from helpers.networks import left_after_folding
from onnx import TensorProto, numpy_helper
from torch import nn

from bot_deploy import open_embedder
from bot_deploy.artifacts import checkpoint
from bot_deploy.artifacts.checkpoint import Checkpoint, contract_of
from bot_deploy.errors import RunError
from bot_deploy.export.fp16 import to_fp16
from bot_deploy.export.graph import inference_graph
from bot_deploy.export.steps import export_onnx, prepare_export
from bot_deploy.export.to_onnx import to_onnx
from bot_deploy.model import InferenceGraph, ReID
from bot_deploy.train import loop
from bot_deploy.train.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.datasets import Dataset

pytest.importorskip("timm", reason="needs timm, of the extra `timm`")

RECIPE = Recipe(
    weights="none", height=64, width=32, epochs=1, warmup_epochs=0, identities_per_batch=4, lr=1e-4, precision="fp32"
)


FULL = ("fp32", "fp16", "int8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precisions"),
    [
        ("test_vit", FULL),
        ("test_convnext", ("int8",)),
        ("test_efficientnet", ("int8",)),
        ("mobilenetv4_conv_small", ("int8",)),
    ],
)
def test_from_training_to_int8(name: str, precisions: tuple[str, ...], small_set: Dataset, tmp_path: Path) -> None:
    path = loop.train(replace(RECIPE, arch=f"timm:{name}"), small_set, tmp_path)
    context = prepare_export(path, tmp_path, small_set)
    modules = list(checkpoint.load(path).build().backbone.modules())
    count = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in modules)
    exported: Any = []
    for precision in precisions:
        exported.append(export_onnx(context, precision, exported))
        assert not exported[-1].rejected
        assert not exported[-1].float32_layers
    crops = context.crops[:6]
    reference = context.reference.run(crops)
    # Products of two activations, as in attention, are not layers: they stay in float32.
    int8 = onnx.load(str(exported[-1].path)).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in int8.initializer}
    made_by = {output: node for node in int8.node for output in node.output}
    layers = [node for node in int8.node if node.op_type in {"Conv", "MatMul"}]
    weights = [made_by[node.input[1]] for node in layers if node.input[1] in made_by]
    quantised = [values[node.input[0]] for node in weights if node.op_type == "DequantizeLinear"]
    assert [array.dtype for array in quantised if array.ndim > 1] == [np.dtype(np.int8)] * count
    assert int8.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    embedded = {model.precision: open_embedder(model.path, "cpu").run(crops) for model in exported}
    if "fp16" in embedded:
        half = onnx.load(str(exported[1].path)).graph
        types = {tensor.name: tensor.data_type for tensor in half.initializer}
        layers = [node for node in half.node if node.op_type in {"Conv", "MatMul"} and node.input[1] in types]
        assert [types[node.input[1]] for node in layers] == [TensorProto.FLOAT16] * count
    else:  # in PyTorch, which is quicker
        graph = copy.deepcopy(context.graph)
        assert not to_fp16(graph, context.calibration)
        with torch.inference_mode():
            embedded["fp16"] = graph(torch.from_numpy(crops)).numpy()
    least = {"fp32": 0.99999, "fp16": 0.999, "int8": 0.97}
    for precision, vectors in embedded.items():
        assert (vectors * reference).sum(1).min() >= least[precision]
    assert (embedded["int8"] * reference).sum(1).min() < 0.999999  # it rounds


def test_folding_keeps_the_activation_that_timm_puts_into_a_batch_norm() -> None:
    _, left = left_after_folding("timm:test_efficientnet")
    assert not left


class _ActivatedBetween(nn.Module):
    """A convolution, a ReLU in place and a batch-norm: these cannot be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.norm(self.relu(self.conv(images)))
        return features


def test_a_batch_norm_after_an_activation_is_not_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = ReID("resnet18", 3, size=(16, 8))
    model.backbone, model.neck = _ActivatedBetween(), nn.BatchNorm1d(4)
    model.backbone.norm.running_mean.uniform_(-1, 1)
    contract = contract_of(model.eval(), 16, 8)
    saved = Checkpoint(contract, model.state_dict(), 3, 1, "bnneck", ("none",))
    monkeypatch.setattr(Checkpoint, "build", lambda _: model)
    images = torch.randint(0, 256, (3, 16, 8, 3), dtype=torch.uint8)
    folded = inference_graph(saved, contract)
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), InferenceGraph(model, contract).eval()(images))
    assert [module for module in folded.backbone.modules() if isinstance(module, nn.BatchNorm2d)]


class _OneBatchSize(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.reshape(len(images), 3, 16, 8)  # len() is a number, not a symbol


def test_a_network_for_one_number_of_images_is_refused(tmp_path: Path) -> None:
    model = ReID("resnet18", 3, size=(16, 8))
    model.backbone, model.neck = _OneBatchSize(), nn.BatchNorm1d(3)
    contract = contract_of(model.eval(), 16, 8)
    with pytest.raises(RunError, match="resnet18: PyTorch exports it for one number of images alone"):
        to_onnx(InferenceGraph(model, contract).eval(), contract, tmp_path / "model.onnx")
