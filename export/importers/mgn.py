"""MGN of fast-reid (Wang et al., "Learning Discriminative Features with Multiple Granularities", ACM MM 2018).

A ResNet whose end exists three times; the second and third see the image in two and three stripes beside the whole.
The network has the keys of fast-reid, so that its state dict loads as it is.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bot_deploy.artifacts.state_dict import list_keys
from bot_deploy.errors import InputError
from bot_deploy.model import BACKBONES, GeM

from .checkpoint import take_normalization
from .inference_only import CONVOLUTION_DIMS, InferenceParts, count_channels, join_necks, load_network
from .key_layouts import LAYOUTS, count_blocks

if TYPE_CHECKING:
    from collections.abc import Mapping

# In the order of the embedding: of each branch the whole image, then the stripes of the second and of the third
HEADS = ("b1", "b2", "b3", "b21", "b22", "b31", "b32", "b33")
STRIPES = {"b2": 2, "b3": 3}
REDUCTION = "b1_head.bottleneck.0.weight"
TRAINING_ONLY = r"b\d\d?_head\.(weight|classifier\.)"
# Blocks of the third stage behind its first -> ResNet
RESNETS = {5: "resnet50", 22: "resnet101"}


def build(state: Mapping[str, Tensor], size: tuple[int, int]) -> InferenceParts:
    """The network with the weights `state`; see `import_for_inference`."""
    given = {key: value.float() for key, value in state.items()}
    stem, last_stride = LAYOUTS["fast-reid"].stem, LAYOUTS["fast-reid"].last_stride
    assumptions = [f"stem {stem}", f"last stride {last_stride}"]
    mean, std = take_normalization(given, assumptions)
    arch, dim = RESNETS.get(count_blocks(given, "b1.0.")), count_channels(given, REDUCTION)
    if given[REDUCTION].ndim != CONVOLUTION_DIMS:
        raise InputError("an MGN without reduced embeddings, which cannot be imported")
    if arch is None:
        raise InputError(f"an MGN on another backbone than {' and '.join(RESNETS.values())}: {list_keys(state)}")
    if "b1_head.pool_layer.p" not in given:
        raise InputError("an MGN whose pooling has no trained power (GeM), so it cannot be told; it cannot be imported")
    arch += "_ibn_a" if "backbone.4.0.bn1.IN.weight" in given else ""
    resnet, channels = BACKBONES[arch].build(last_stride, stem, size)
    network = MGN(resnet, channels, dim)
    necks = [f"{head}_head.bottleneck.1" for head in HEADS]
    neck = join_necks(given, necks, [dim] * len(HEADS), [1.0] * len(HEADS))
    unused = load_network(network, given, necks, TRAINING_ONLY)
    return InferenceParts(
        arch=f"mgn-{arch}",
        backbone=network,
        neck=neck,
        dim=len(neck.weight),
        unused=unused,
        feature="after",
        assumptions=tuple(assumptions),
        mean=mean,
        std=std,
    )


class MGN(nn.Module):
    """Normalised images [N, 3, H, W] to the reduced features of the heads, one behind the other, [N, 8 D]."""

    def __init__(self, resnet: Any, channels: int, dim: int) -> None:
        super().__init__()
        first, *rest = resnet.layer3
        start = (resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool, resnet.layer1, resnet.layer2, first)
        self.backbone = nn.Sequential(*start)
        end = nn.Sequential(nn.Sequential(*rest), resnet.layer4)
        self.b1, self.b2, self.b3 = end, deepcopy(end), deepcopy(end)
        for head in HEADS:
            setattr(self, f"{head}_head", _Head(channels, dim))

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        maps = {"b1": self.b1(features), "b2": self.b2(features), "b3": self.b3(features)}
        for branch, count in STRIPES.items():
            stripes = maps[branch].chunk(count, dim=2)
            if len(stripes) < count:
                raise ValueError(f"the feature map has no {count} stripes")
            for number, stripe in enumerate(stripes, 1):
                maps[f"{branch}{number}"] = stripe
        return torch.cat([self.get_submodule(f"{head}_head")(maps[head]) for head in HEADS], 1)


class _Head(nn.Module):
    """Generalised-mean pooling, and a layer that reduces the length."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.pool_layer = GeM()
        self.bottleneck = nn.Sequential(nn.Conv2d(channels, dim, 1, bias=False))  # its batch-norm is the neck

    def forward(self, features: Tensor) -> Tensor:
        reduced: Tensor = self.bottleneck(self.pool_layer(features)[:, :, None, None])
        return reduced[:, :, 0, 0]
