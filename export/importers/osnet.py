"""OSNet of torchreid: plain (Zhou et al., ICCV 2019), with IBN, or AIN (Zhou et al., TPAMI 2021); of any width.

The network has the keys of torchreid's AIN; those of the others are renamed. Width, length of the embedding and place
of the norms are read from the file.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bot_deploy.artifacts.state_dict import match_state_dict
from bot_deploy.errors import InputError

from .inference_only import InferenceParts, count_channels, split_unused

if TYPE_CHECKING:
    from collections.abc import Mapping

STREAMS = 4  # of a block; stream t has t light convolutions, so its field of view grows
BLOCKS = 2  # of a stage
REDUCTION, GATE_REDUCTION = 4, 16
TRAINING_ONLY = r"classifier\."
# Where the instance norm of a block is
NONE, AFTER_SUM, FOR_BATCH_NORM = "none", "after the sum (IBN)", "in place of the last batch norm (AIN)"


def build(state: Mapping[str, Tensor], _size: tuple[int, int]) -> InferenceParts:
    """The network with the weights `state`; see `import_for_inference`."""
    file_keys: dict[str, str] = {}
    # Keys of the file for a place that another one has taken
    twice = [key for key in state if file_keys.setdefault(_rename(key), key) != key]
    given = {name: state[key] for name, key in file_keys.items()}
    try:
        network = OSNet(given)
        unused, unknown = split_unused(given, network.state_dict(), TRAINING_ONLY)
        used = {name: value for name, value in given.items() if name not in {*unused, *unknown}}
        unknown = [*twice, *(file_keys[name] for name in unknown)]
        network.load_state_dict(match_state_dict(used, network.state_dict(), file_keys=file_keys, unknown=unknown))
    except InputError as error:
        raise InputError(f"its weights are not those of an OSNet; {error}") from None
    kind = "osnet-ain" if "conv2.0.conv2.0.layers.0.conv1.weight" in state else "osnet"
    has_ibn = kind == "osnet" and any(".IN." in name for name in given)
    return InferenceParts(
        arch=f"{kind}-ibn" if has_ibn else kind,
        backbone=network,
        neck=None,
        dim=len(given["fc.0.weight"]),
        unused=unused,
        assumptions=("the normalisation of ImageNet",),
    )


def _rename(key: str) -> str:
    """The key of torchreid's AIN for a key of its other OSNets."""
    key = re.sub(r"\.conv2([a-d])\.(\d\.)?", lambda m: f".conv2.{ord(m[1]) - ord('a')}.layers.{m[2] or '0.'}", key)
    return re.sub(r"^conv([23])\.2\.0\.", r"pool\1.0.", key)


class OSNet(nn.Module):
    """The network without its classifier, for the weights `state`: normalised images [N, 3, H, W] to [N, D]."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        # The channels after conv1, conv2, conv3 and conv4
        first, second, third, last = (
            count_channels(state, f"{stage}.weight")
            for stage in ("conv1.conv", "pool2.0.conv", "pool3.0.conv", "conv5.conv")
        )
        dim = count_channels(state, "fc.0.weight")
        has_batch_norm = "conv1.bn.running_mean" in state
        norm = nn.BatchNorm2d(first) if has_batch_norm else nn.InstanceNorm2d(first, affine=True)
        self.conv1 = _Unit(nn.Conv2d(3, first, 7, 2, 3, bias=False), norm)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.conv2 = _stage(state, "conv2", first, second)
        self.pool2 = nn.Sequential(_pointwise(second, second), nn.AvgPool2d(2, 2))
        self.conv3 = _stage(state, "conv3", second, third)
        self.pool3 = nn.Sequential(_pointwise(third, third), nn.AvgPool2d(2, 2))
        self.conv4 = _stage(state, "conv4", third, last)
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
    """An omni-scale block, with an instance norm at one of the places NONE, AFTER_SUM and FOR_BATCH_NORM."""

    def __init__(self, inputs: int, outputs: int, instance_norm: str) -> None:
        super().__init__()
        self.instance_norm = instance_norm
        middle = outputs // REDUCTION
        self.conv1 = _pointwise(inputs, middle)
        self.conv2 = nn.ModuleList(_Stream(middle, depth) for depth in range(1, STREAMS + 1))
        self.gate = _Gate(middle)
        self.conv3 = _Linear(middle, outputs, norm=instance_norm != FOR_BATCH_NORM)
        self.downsample = _Linear(inputs, outputs) if inputs != outputs else nn.Identity()
        self.IN = nn.Identity() if instance_norm == NONE else nn.InstanceNorm2d(outputs, affine=True)

    def forward(self, features: Tensor) -> Tensor:
        squeezed = self.conv1(features)
        gated = torch.stack([self.gate(stream(squeezed)) for stream in self.conv2]).sum(0)
        if self.instance_norm == AFTER_SUM:
            return torch.relu(self.IN(self.conv3(gated) + self.downsample(features)))
        return torch.relu(self.IN(self.conv3(gated)) + self.downsample(features))


def _pointwise(inputs: int, outputs: int) -> _Unit:
    return _Unit(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


def _stage(state: Mapping[str, Tensor], name: str, inputs: int, outputs: int) -> nn.Sequential:
    places = [_instance_norm(state, f"{name}.{block}") for block in range(BLOCKS)]
    return nn.Sequential(_Block(inputs, outputs, places[0]), *(_Block(outputs, outputs, place) for place in places[1:]))


def _instance_norm(state: Mapping[str, Tensor], block: str) -> str:
    if f"{block}.IN.weight" not in state:
        return NONE
    return AFTER_SUM if f"{block}.conv3.bn.weight" in state else FOR_BATCH_NORM
