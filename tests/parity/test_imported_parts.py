"""The parts that only imported models have, in every precision against PyTorch: non-local block, GeM, reduction."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from bot_deploy import model as networks
from bot_deploy import open_embedder
from bot_deploy.artifacts.checkpoint import Checkpoint, contract_of
from bot_deploy.export.fp16 import to_fp16
from bot_deploy.export.graph import inference_graph
from bot_deploy.export.int8 import to_int8
from bot_deploy.export.to_onnx import to_onnx
from bot_deploy.model import Backbone, InferenceGraph, NonLocal, ReID

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.images import Pixels


def build_small(*_: object) -> tuple[nn.Module, int]:
    """Two convolutions with a non-local block between them: the ResNets that have such blocks are large."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 7, 4, 3), nn.BatchNorm2d(32), nn.ReLU(), NonLocal(32, 16)]
    return nn.Sequential(*layers, nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU()), 64


def make_crops(count: int) -> Pixels:
    """Blocks of random colours, uint8 [count, 64, 32, 3]."""
    blocks = np.random.default_rng(0).integers(0, 256, (count, 8, 4, 3), dtype=np.uint8)
    return blocks.repeat(8, 1).repeat(8, 2)


def test_every_precision_embeds_as_pytorch_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = make_crops(24)
    monkeypatch.setitem(networks.BACKBONES, "small", Backbone(build_small))
    torch.manual_seed(0)
    model = ReID("small", 2, pooling="gem", reduced_dim=24)
    block: Any = model.backbone[3]  # type: ignore[index]
    nn.init.uniform_(block.W[1].weight, 0.5, 1)
    with torch.no_grad():  # statistics for batch-norm and neck
        for _ in range(20):
            model.train()(torch.from_numpy(crops).permute(0, 3, 1, 2) / 255 * 4 - 2)
    contract = contract_of(model, 64, 32)
    saved = Checkpoint(contract, model.state_dict(), 2, 1, "bnneck", (), pooling="gem", reduced_dim=24)
    with torch.inference_mode():
        reference = InferenceGraph(model, contract).eval()(torch.from_numpy(crops)).numpy()
    graph = inference_graph(saved, contract)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in graph.backbone.modules())
    half = copy.deepcopy(graph)
    assert not to_fp16(half, crops)
    to_onnx(graph, contract, tmp_path / "fp32.onnx")
    to_onnx(half, replace(contract, precision="fp16"), tmp_path / "fp16.onnx")
    int8 = replace(contract, precision="int8")
    assert not to_int8(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", graph, int8, crops)
    assert float((reference @ reference.T).min()) < 0.9
    for precision, least in {"fp32": 0.999999, "fp16": 0.9999, "int8": 0.985}.items():
        vectors = open_embedder(tmp_path / f"{precision}.onnx", "cpu").run(crops)
        assert float((vectors * reference).sum(1).min()) > least, precision
