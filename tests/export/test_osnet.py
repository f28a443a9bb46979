"""OSNet-AIN, against a plain forward pass by the keys of torchreid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from bot_deploy.errors import InputError
from bot_deploy.export.importers.osnet import OSNetAIN, osnet_to_onnx

State = dict[str, Tensor]
WIDTHS, DIM = [16, 64, 64, 64], 24


@pytest.fixture
def state() -> State:
    """A state dict with a classifier, as torchreid saves it; no parameter and no statistic is trivial."""
    torch.manual_seed(0)
    network = OSNetAIN(WIDTHS, DIM)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.InstanceNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return {**network.state_dict(), "classifier.weight": torch.zeros(5, DIM), "classifier.bias": torch.zeros(5)}


def forward(state: State, x: Tensor) -> Tensor:
    """The embeddings of crops [N, 3, H, W]."""

    def norm(name: str, x: Tensor) -> Tensor:
        w = {key: state.get(f"{name}.{key}") for key in ("weight", "bias", "running_mean", "running_var")}
        if w["running_mean"] is None:
            return fn.instance_norm(x, weight=w["weight"], bias=w["bias"])
        return fn.batch_norm(x, w["running_mean"], w["running_var"], w["weight"], w["bias"])

    def pointwise(name: str, x: Tensor) -> Tensor:
        return fn.relu(norm(f"{name}.bn", fn.conv2d(x, state[f"{name}.conv.weight"])))

    def block(name: str, x: Tensor) -> Tensor:
        squeezed, total = pointwise(f"{name}.conv1", x), torch.zeros(())
        for stream in range(4):
            y = squeezed
            for layer in range(stream + 1):
                light = f"{name}.conv2.{stream}.layers.{layer}"
                y = fn.conv2d(y, state[f"{light}.conv1.weight"])
                y = fn.conv2d(y, state[f"{light}.conv2.weight"], padding=1, groups=y.shape[1])
                y = fn.relu(norm(f"{light}.bn", y))
            gate = fn.adaptive_avg_pool2d(y, 1)
            gate = fn.relu(fn.conv2d(gate, state[f"{name}.gate.fc1.weight"], state[f"{name}.gate.fc1.bias"]))
            gate = torch.sigmoid(fn.conv2d(gate, state[f"{name}.gate.fc2.weight"], state[f"{name}.gate.fc2.bias"]))
            total = total + gate * y
        y = fn.conv2d(total, state[f"{name}.conv3.conv.weight"])
        y = norm(f"{name}.IN" if f"{name}.IN.weight" in state else f"{name}.conv3.bn", y)
        if f"{name}.downsample.conv.weight" in state:
            x = norm(f"{name}.downsample.bn", fn.conv2d(x, state[f"{name}.downsample.conv.weight"]))
        return fn.relu(x + y)

    x = fn.relu(norm("conv1.bn", fn.conv2d(x, state["conv1.conv.weight"], stride=2, padding=3)))
    x = fn.max_pool2d(x, 3, 2, 1)
    x = fn.avg_pool2d(pointwise("pool2.0", block("conv2.1", block("conv2.0", x))), 2)
    x = fn.avg_pool2d(pointwise("pool3.0", block("conv3.1", block("conv3.0", x))), 2)
    x = pointwise("conv5", block("conv4.1", block("conv4.0", x))).mean((2, 3))
    return fn.relu(norm("fc.1", fn.linear(x, state["fc.0.weight"], state["fc.0.bias"])))


def test_the_onnx_file_embeds_as_the_formulas_do(state: State, tmp_path: Path) -> None:
    instance_normed = {key.rpartition(".IN.")[0] for key in state if ".IN.weight" in key}
    assert instance_normed == {"conv2.0", "conv2.1", "conv3.1", "conv4.0"}
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "theirs.pt")
    osnet_to_onnx(tmp_path / "theirs.pt", tmp_path / "ours.onnx", (64, 32))
    crops = torch.randn(3, 3, 64, 32)
    session = ort.InferenceSession(str(tmp_path / "ours.onnx"))
    for part in (crops, crops[:1]):  # any batch size
        actual = session.run(None, {"crops": part.numpy()})[0]
        np.testing.assert_allclose(actual, forward(state, part).numpy(), atol=1e-4, rtol=1e-4)
    assert actual.std() > 0.1


def test_other_weights_are_refused(state: State, tmp_path: Path) -> None:
    for content, message in (
        ({key: value for key, value in state.items() if key != "conv4.0.IN.weight"}, "missing keys: conv4.0.IN.weight"),
        ({**state, "extra": torch.zeros(1)}, "unknown keys: extra"),
        ({"layer1.0.conv1.weight": torch.zeros(1)}, "not those of an OSNet-AIN; layer1.0.conv1.weight"),
    ):
        torch.save(content, tmp_path / "theirs.pt")
        with pytest.raises(InputError, match=message) as caught:
            osnet_to_onnx(tmp_path / "theirs.pt", tmp_path / "ours.onnx", (64, 32))
        assert "\n" not in str(caught.value)
