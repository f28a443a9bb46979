"""OSNet-AIN of torchreid (Zhou et al., "Learning Generalisable Omni-Scale Representations", TPAMI 2021), to ONNX.

The network has torchreid's keys, so that its state dict loads as it is. Width and length of the embedding are read from
the file. It is not one of our backbones: it becomes an ONNX file that is wrapped like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bot_deploy.artifacts.state_dict import list_keys, match_state_dict
from bot_deploy.choices import OPSET
from bot_deploy.errors import InputError
from bot_deploy.export.to_onnx import silent_exporter

from .checkpoint import read_state_dict

if TYPE_CHECKING:
    from pathlib import Path

STREAMS = 4  # of a block; stream t has t light convolutions, so its field of view grows
REDUCTION, GATE_REDUCTION = 4, 16
# Stage -> whether each of its blocks has instance norm, as the search of the paper (section 4) chose for osnet_ain
INSTANCE_NORM = {"conv2": (True, True), "conv3": (False, True), "conv4": (True, False)}


def osnet_to_onnx(source: Path, out: Path, size: tuple[int, int]) -> None:
    """Writes the OSNet-AIN in `source` as ONNX: float32 [N, 3, height, width] in, embeddings [N, D] out.

    Raises:
        InputError: no such file, pickled code in it, or weights of another network.
    """
    state = read_state_dict(source)
    weights = {key: value for key, value in state.items() if not key.startswith("classifier.")}
    try:
        widths = [
            len(weights[f"{stage}.weight"]) for stage in ("conv1.conv", "pool2.0.conv", "pool3.0.conv", "conv5.conv")
        ]
        network = OSNetAIN(widths, len(weights["fc.0.weight"]))
        network.load_state_dict(match_state_dict(weights, network.state_dict()))
    except (KeyError, InputError) as error:
        reason = error if isinstance(error, InputError) else list_keys(state)
        raise InputError(f"{source}: its weights are not those of an OSNet-AIN; {reason}") from None
    network.eval()
    with silent_exporter():
        program = torch.onnx.export(
            network,
            (torch.zeros(2, 3, *size),),
            input_names=["crops"],
            output_names=["embeddings"],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
        )
    assert program is not None
    program.save(str(out))


class OSNetAIN(nn.Module):
    """The network without its classifier; `widths` are the channels after conv1, conv2, conv3 and conv4."""

    def __init__(self, widths: list[int], dim: int) -> None:
        super().__init__()
        first, second, third, last = widths
        self.conv1 = _Unit(nn.Conv2d(3, first, 7, 2, 3, bias=False), nn.InstanceNorm2d(first, affine=True))
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.conv2 = _stage("conv2", first, second)
        self.pool2 = nn.Sequential(_pointwise(second, second), nn.AvgPool2d(2, 2))
        self.conv3 = _stage("conv3", second, third)
        self.pool3 = nn.Sequential(_pointwise(third, third), nn.AvgPool2d(2, 2))
        self.conv4 = _stage("conv4", third, last)
        self.conv5 = _pointwise(last, last)
        self.fc = nn.Sequential(nn.Linear(last, dim), nn.BatchNorm1d(dim), nn.ReLU())

    def forward(self, crops: Tensor) -> Tensor:
        """Crops [N, 3, H, W], normalised, to embeddings [N, D]."""
        features = self.pool2(self.conv2(self.maxpool(self.conv1(crops))))
        features = self.conv5(self.conv4(self.pool3(self.conv3(features))))
        embeddings: Tensor = self.fc(features.mean((2, 3)))
        return embeddings


class _Unit(nn.Module):
    """A convolution, a norm, and ReLU."""

    def __init__(self, conv: nn.Conv2d, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.bn = conv, norm

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(features)))


class _Linear(nn.Module):
    """A pointwise convolution, and batch norm if `norm`."""

    def __init__(self, inputs: int, outputs: int, *, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs) if norm else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        normed: Tensor = self.bn(self.conv(features))
        return normed


class _Light(nn.Module):
    """A pointwise and a depthwise 3x3 convolution, batch norm, and ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv2(self.conv1(features))))


class _Stream(nn.Module):
    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(_Light(channels) for _ in range(depth)))

    def forward(self, features: Tensor) -> Tensor:
        streamed: Tensor = self.layers(features)
        return streamed


class _Gate(nn.Module):
    """Weights of channels between 0 and 1, from the mean of each channel; all streams of a block share one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // GATE_REDUCTION, 1)
        self.fc2 = nn.Conv2d(channels // GATE_REDUCTION, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        means = features.mean((2, 3), keepdim=True)
        return features * torch.sigmoid(self.fc2(torch.relu(self.fc1(means))))


class _Block(nn.Module):
    """An omni-scale block; with `instance_norm`, instance norm takes the place of the last batch norm."""

    def __init__(self, inputs: int, outputs: int, *, instance_norm: bool) -> None:
        super().__init__()
        middle = outputs // REDUCTION
        self.conv1 = _pointwise(inputs, middle)
        self.conv2 = nn.ModuleList(_Stream(middle, depth) for depth in range(1, STREAMS + 1))
        self.gate = _Gate(middle)
        self.conv3 = _Linear(middle, outputs, norm=not instance_norm)
        self.downsample = _Linear(inputs, outputs) if inputs != outputs else nn.Identity()
        self.IN = nn.InstanceNorm2d(outputs, affine=True) if instance_norm else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        squeezed = self.conv1(features)
        gated = torch.stack([self.gate(stream(squeezed)) for stream in self.conv2]).sum(0)
        return torch.relu(self.IN(self.conv3(gated)) + self.downsample(features))


def _pointwise(inputs: int, outputs: int) -> _Unit:
    return _Unit(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


def _stage(name: str, inputs: int, outputs: int) -> nn.Sequential:
    blocks, channels = [], inputs
    for instance_norm in INSTANCE_NORM[name]:
        blocks.append(_Block(channels, outputs, instance_norm=instance_norm))
        channels = outputs
    return nn.Sequential(*blocks)
