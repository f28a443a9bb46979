"""State dicts of small OSNets, plain, with IBN and AIN, and a plain forward pass by the keys of torchreid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from helpers.toolkits import IMAGENET, State, conv, instance_norm, norm
from torch import Tensor
from torch.nn import functional as fn

WIDTHS, DIM, SIZE = [16, 64, 64, 96], 24, (64, 32)
AIN = {"conv2.0", "conv2.1", "conv3.1", "conv4.0"}  # blocks with instance norm, as the search of the paper chose
IBN = {"conv2.0", "conv2.1"}


def osnet(kind: str) -> State:
    """A state dict with a classifier, as torchreid saves it; `kind` is "plain", "ibn" or "ain"."""
    torch.manual_seed(0)
    first, *widths = WIDTHS
    state = {"conv1.conv.weight": conv(first, 3, 7)}
    state |= norm("conv1.bn", first) if kind == "plain" else instance_norm("conv1.bn", first)
    inside = first
    for stage, outside in zip(("conv2", "conv3", "conv4"), widths, strict=True):
        state |= osnet_block(kind, f"{stage}.0", inside, outside) | osnet_block(kind, f"{stage}.1", outside, outside)
        inside = outside
        if stage != "conv4":
            state |= unit(f"pool{stage[-1]}.0" if kind == "ain" else f"{stage}.2.0", outside, outside)
    state |= unit("conv5", inside, inside)
    state |= {"fc.0.weight": torch.randn(DIM, inside) / inside**0.5, "fc.0.bias": torch.randn(DIM), **norm("fc.1", DIM)}
    return {**state, "classifier.weight": torch.zeros(5, DIM), "classifier.bias": torch.zeros(5)}


def osnet_block(kind: str, name: str, inside: int, outside: int) -> State:
    middle = outside // 4
    state = unit(f"{name}.conv1", middle, inside)
    for stream in range(4):
        for layer in range(stream + 1):
            light = light_layer(name, stream, layer, is_ain=kind == "ain")
            state[f"{light}.conv1.weight"] = conv(middle, middle, 1)
            state[f"{light}.conv2.weight"] = conv(middle, 1, 3)
            state |= norm(f"{light}.bn", middle)
    for layer, (out, ins) in {"fc1": (middle // 16, middle), "fc2": (middle, middle // 16)}.items():
        state |= {f"{name}.gate.{layer}.weight": conv(out, ins, 1), f"{name}.gate.{layer}.bias": torch.randn(out)}
    has_instance_norm = name in {"plain": set(), "ibn": IBN, "ain": AIN}[kind]
    state[f"{name}.conv3.conv.weight"] = conv(outside, middle, 1)
    state |= {} if kind == "ain" and has_instance_norm else norm(f"{name}.conv3.bn", outside)
    state |= instance_norm(f"{name}.IN", outside) if has_instance_norm else {}
    return state | (unit(f"{name}.downsample", outside, inside) if inside != outside else {})


def light_layer(block: str, stream: int, layer: int, *, is_ain: bool) -> str:
    if is_ain:
        return f"{block}.conv2.{stream}.layers.{layer}"
    return f"{block}.conv2{'abcd'[stream]}" + (f".{layer}" if stream else "")


def unit(name: str, out: int, inside: int) -> State:
    return {f"{name}.conv.weight": conv(out, inside, 1), **norm(f"{name}.bn", out)}


def expected_vectors(state: State, images: Tensor) -> npt.NDArray[np.float32]:
    """The embeddings of uint8 RGB crops [N, H, W, 3], as unit vectors."""
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in IMAGENET)
    vectors = fn.normalize(forward(state, (images.permute(0, 3, 1, 2) / 255 - mean) / std))
    return np.asarray(vectors.numpy(), np.float32)


def forward(state: State, x: Tensor) -> Tensor:
    """The embeddings of normalised crops [N, 3, H, W]."""
    is_ain = "pool2.0.conv.weight" in state

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
                light = light_layer(name, stream, layer, is_ain=is_ain)
                y = fn.conv2d(y, state[f"{light}.conv1.weight"])
                y = fn.conv2d(y, state[f"{light}.conv2.weight"], padding=1, groups=y.shape[1])
                y = fn.relu(norm(f"{light}.bn", y))
            gate = fn.adaptive_avg_pool2d(y, 1)
            gate = fn.relu(fn.conv2d(gate, state[f"{name}.gate.fc1.weight"], state[f"{name}.gate.fc1.bias"]))
            gate = torch.sigmoid(fn.conv2d(gate, state[f"{name}.gate.fc2.weight"], state[f"{name}.gate.fc2.bias"]))
            total = total + gate * y
        y = fn.conv2d(total, state[f"{name}.conv3.conv.weight"])
        has_instance_norm = f"{name}.IN.weight" in state
        y = norm(f"{name}.IN" if is_ain and has_instance_norm else f"{name}.conv3.bn", y)
        if f"{name}.downsample.conv.weight" in state:
            x = norm(f"{name}.downsample.bn", fn.conv2d(x, state[f"{name}.downsample.conv.weight"]))
        return fn.relu(norm(f"{name}.IN", x + y) if has_instance_norm and not is_ain else x + y)

    x = fn.relu(norm("conv1.bn", fn.conv2d(x, state["conv1.conv.weight"], stride=2, padding=3)))
    x = fn.max_pool2d(x, 3, 2, 1)
    first, second = ("pool2.0", "pool3.0") if is_ain else ("conv2.2.0", "conv3.2.0")
    x = fn.avg_pool2d(pointwise(first, block("conv2.1", block("conv2.0", x))), 2)
    x = fn.avg_pool2d(pointwise(second, block("conv3.1", block("conv3.0", x))), 2)
    x = pointwise("conv5", block("conv4.1", block("conv4.0", x))).mean((2, 3))
    return fn.relu(norm("fc.1", fn.linear(x, state["fc.0.weight"], state["fc.0.bias"])))
