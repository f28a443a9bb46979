"""The networks that are trained and exported: a backbone, BNNeck and a classifier, and the inference graph.

It has nothing to do with the folder models/, which finds model files by name.

A new backbone family is one builder and one row of `BACKBONES`; those of timm need no row, see timm_backbone.py. This
file needs torch; a machine that runs an exported model does not import it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from bot_deploy import timm_backbone
from bot_deploy.choices import IMAGE_HEIGHT, IMAGE_WIDTH, MEAN, NECKS, STD, STEMS, feature_code
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torchvision.models.resnet import ResNet

    from bot_deploy.artifacts.contract import Contract

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
NORMALISED_BOTTLENECKS = 13  # of MobileNetV2 with instance normalisation
INSTANCE_NORM = "_in"  # end of the keys of these layers
L2_LENGTH = 16.0  # length of the features after an l2norm neck; at length 1 the logits would be too small to train


@dataclass(frozen=True)
class Backbone:
    """One row of `BACKBONES`: how to build a backbone, and how it differs from the others."""

    # (last stride, stem, (height, width) of the images) -> network, channels of its feature map
    build: Callable[[int, str, tuple[int, int]], tuple[nn.Module, int]]
    stems: tuple[str, ...] = STEMS[:1]  # stems that it can be built with
    torchvision_name: str | None = None  # name of its ImageNet weights in torchvision
    imported_last_stride: int | None = None  # last stride in other toolkits' checkpoints, if all use the same
    extra_layers_key: str = ""  # in the keys of layers that torchvision's weights lack; these start untrained
    timm_name: str | None = None  # its name in timm
    weights_prefix: str = "backbone"  # before the keys of its ImageNet weights
    has_fixed_size: bool = False  # built for one size of images
    mean: tuple[float, float, float] = MEAN  # of the normalisation that its ImageNet weights are for
    std: tuple[float, float, float] = STD


class IBN(nn.Module):
    """IBN-a (Pan et al., ECCV 2018): instance normalisation for half of the channels, batch-norm for the others."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.middle = channels // 2
        self.IN = nn.InstanceNorm2d(self.middle, affine=True)  # IN and BN are the names in published weights
        self.BN = nn.BatchNorm2d(channels - self.middle)

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([self.IN(features[:, : self.middle]), self.BN(features[:, self.middle :])], 1)


def _build_resnet(
    name: str, last_stride: int, stem: str, _size: tuple[int, int], *, ibn: bool = False
) -> tuple[nn.Module, int]:
    from torchvision import models

    net: ResNet = getattr(models, name)(weights=None)
    block: Any
    if ibn:
        for block in (*net.layer1, *net.layer2, *net.layer3):
            block.bn1 = IBN(block.bn1.num_features)
    if stem == "no-relu":
        net.relu = nn.Identity()
    elif stem == "unpadded-pool":
        net.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    block = net.layer4[0]
    # The stride is in a Bottleneck's second convolution and in a BasicBlock's first (paper section 3.4).
    strided = block.conv2 if hasattr(block, "conv3") else block.conv1
    strided.stride = block.downsample[0].stride = (last_stride, last_stride)
    children = {name: child for name, child in net.named_children() if name not in {"avgpool", "fc"}}
    return nn.Sequential(OrderedDict(children)), net.fc.in_features


def _build_mobilenet_v2(
    last_stride: int, _stem: str, _size: tuple[int, int], *, instance_norm: bool = False
) -> tuple[nn.Module, int]:
    """MobileNetV2; with `instance_norm` after the stem and the first 13 of 17 bottlenecks (Jia et al., BMVC 2019).

    Instance normalisation takes the contrast and the colour of each image out of its early features, and with them much
    of what differs between cameras.
    """
    from torchvision import models

    net = models.mobilenet_v2(weights=None)
    # features.14 is the last block that halves the feature map; its depthwise convolution has the stride.
    depthwise: Any = net.features[14].conv[1][0]
    depthwise.stride = (last_stride, last_stride)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    block: Any
    for index, block in enumerate(net.features):
        layers[str(index)] = block  # torchvision's key
        if instance_norm and index <= NORMALISED_BOTTLENECKS:
            channels = block[1].num_features if index == 0 else block.out_channels
            layers[f"{index}{INSTANCE_NORM}"] = nn.InstanceNorm2d(channels, affine=True)
    return nn.Sequential(OrderedDict(features=nn.Sequential(layers))), net.last_channel


BACKBONES = {
    **{name: Backbone(partial(_build_resnet, name), stems=STEMS, torchvision_name=name) for name in RESNETS},
    **{f"{name}_ibn_a": Backbone(partial(_build_resnet, name, ibn=True), stems=STEMS) for name in RESNETS},
    "mobilenet_v2": Backbone(_build_mobilenet_v2, torchvision_name="mobilenet_v2", imported_last_stride=2),
    "mobilenet_v2_in": Backbone(
        partial(_build_mobilenet_v2, instance_norm=True),
        torchvision_name="mobilenet_v2",
        extra_layers_key=f"{INSTANCE_NORM}.",
    ),
}


def find_backbone(arch: str) -> Backbone:
    """The row of `arch` in `BACKBONES`, or one for "timm:NAME".

    Raises:
        InputError: an unknown backbone.
        RunError: timm is needed and not installed.
    """
    if arch.startswith(timm_backbone.PREFIX):
        name = arch.removeprefix(timm_backbone.PREFIX)
        config = timm_backbone.pretrained_config(name)
        return Backbone(
            partial(timm_backbone.build, name),
            timm_name=name,
            weights_prefix="backbone.net",
            has_fixed_size=bool(config.fixed_input_size),
            mean=tuple(config.mean),
            std=tuple(config.std),
        )
    if arch not in BACKBONES:
        raise InputError(
            f"unknown backbone {arch!r}; choose from {', '.join(BACKBONES)}, or {timm_backbone.PREFIX}NAME"
        )
    return BACKBONES[arch]


def _build_neck(kind: str, dim: int) -> nn.Module:
    if kind == "bnneck":
        norm = nn.BatchNorm1d(dim)
        norm.bias.requires_grad = False
        return norm
    return _L2Norm() if kind == "l2norm" else nn.Identity()


class _L2Norm(nn.Module):
    """L2 normalisation instead of BNNeck (future work in section 6 of the paper)."""

    def forward(self, features: Tensor) -> Tensor:
        return L2_LENGTH * nn.functional.normalize(features, dim=1)


class ReID(nn.Module):
    """Backbone, global average pooling, neck and classifier (paper figure 2b).

    The input is normalised images, float [N, 3, H, W]; some backbones take only images of `size`, (height, width). In
    training, the output is f_t [N, D], the feature before the neck, f_i [N, D], the feature after it, and the logits
    [N, num_ids]. In evaluation, it is the embedding [N, D], not yet L2-normalised.

    Raises:
        InputError: an unknown backbone or neck, or a stem that the backbone does not have.
    """

    def __init__(
        self,
        arch: str,
        num_ids: int,
        *,
        last_stride: int = 1,
        neck: str = "bnneck",
        feature: str = "fi",
        stem: str = "torchvision",
        size: tuple[int, int] = (IMAGE_HEIGHT, IMAGE_WIDTH),
    ) -> None:
        super().__init__()
        backbone = find_backbone(arch)
        if neck not in NECKS:
            raise InputError(f"unknown neck {neck!r}; choose from {', '.join(NECKS)}")
        if stem not in backbone.stems:
            raise InputError(f"{arch} has no stem {stem!r}; choose from {', '.join(backbone.stems)}")
        self.arch, self.feature, self.size = arch, feature_code(feature), size
        self.mean, self.std = backbone.mean, backbone.std  # of its input
        self.backbone, self.dim = backbone.build(last_stride, stem, size)
        self.neck = _build_neck(neck, self.dim)
        # Paper section 3.5: no shift in the neck, no bias in the classifier.
        self.classifier = nn.Linear(self.dim, num_ids, bias=neck == "none")
        if neck != "none":
            nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        # Pool in float32 even under autocast, and as rows: their gradient stays in channels_last memory.
        f_t = self.backbone(images).float().permute(0, 2, 3, 1).flatten(1, 2).mean(1)
        if not self.training and self.feature == "ft":
            return cast("Tensor", f_t)
        f_i = self.neck(f_t)
        return (f_t, f_i, self.classifier(f_i)) if self.training else f_i


class InferenceGraph(nn.Module):
    """The network that is evaluated and exported: images uint8 [N, H, W, 3] RGB to embeddings float32 [N, D].

    Embeddings have length 1. With `unit_length=False` they keep the length that the network gives them, as Euclidean
    distances in experiments need it.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: ReID, contract: Contract, *, unit_length: bool = True) -> None:
        super().__init__()
        self.unit_length, self.flip = unit_length, contract.flip
        self.backbone, self.neck = model.backbone, model.neck if contract.feature == "after" else nn.Identity()
        mean, std = torch.tensor(contract.mean), torch.tensor(contract.std)
        # (x / 255 - mean) / std as one multiply and one add.
        self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1))
        self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        # Cast first: TensorRT can only cast uint8.
        pixels = images.float().permute(0, 3, 1, 2) * self.scale + self.shift
        if self.flip:
            pixels = torch.cat([pixels, pixels.flip(3)])
        # Pooling, neck and normalisation are in float32, even if the backbone runs in FP16 or INT8.
        embedding: Tensor = self.neck(self.backbone(pixels).float().mean(dim=(2, 3)))
        if self.flip:
            embedding = embedding.reshape(2, -1, embedding.shape[1]).mean(0)
        return embedding / embedding.norm(dim=1, keepdim=True).clamp(min=1e-12) if self.unit_length else embedding


def add_prefix(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with "prefix." before each key."""
    return {f"{prefix}.{key}": value for key, value in state.items()}
