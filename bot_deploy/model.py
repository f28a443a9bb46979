"""The networks that are trained and exported: a backbone, BNNeck and a classifier, and the inference graph.

It has nothing to do with the folder models/, which finds model files by name.

A new backbone family is one builder and one row of `BACKBONES`; those of timm need no row, see timm_backbone.py. This
file needs torch; a machine that runs an exported model does not import it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn

from bot_deploy import timm_backbone
from bot_deploy.choices import IMAGE_HEIGHT, IMAGE_WIDTH, MEAN, NECKS, POOLINGS, STD, STEMS, feature_code
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torchvision.models.resnet import ResNet

    from bot_deploy.artifacts.contract import Contract

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
# Number of non-local blocks at the ends of stages 2 and 3 (AGW, Ye et al., TPAMI 2021; numbers of fast-reid)
NON_LOCAL_BLOCKS = {"resnet50": (2, 3), "resnet101": (2, 9)}
NON_LOCAL = "nl"  # start of their names within a stage
GEM_POWER = 3.0  # of GeM before training, and where it is not trained
MIN_POOLED = 1e-6  # GeM raises nothing smaller to a power
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


class NonLocal(nn.Module):
    """A non-local block (Wang et al., CVPR 2018): adds to each position a mean over all, weighted by dot products."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        # The names are those in published weights.
        self.g, self.theta, self.phi = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(norm.weight)  # at first it adds nothing
        self.W = nn.Sequential(nn.Conv2d(inner, channels, 1), norm)

    def forward(self, features: Tensor) -> Tensor:
        # [N, inner, H W] each; in float32 even in FP16, because the products add up many terms
        values, queries, keys = (layer(features).flatten(2).float() for layer in (self.g, self.theta, self.phi))
        # There is no softmax, so (queries keys) values = queries (keys values): inner x inner numbers, not (H W)^2.
        weights = values @ keys.transpose(1, 2) / values.shape[2]
        added: Tensor = self.W((weights @ queries).reshape(features.shape[0], -1, *features.shape[2:]))
        return features + added


def _build_resnet(
    name: str,
    last_stride: int,
    stem: str,
    _size: tuple[int, int],
    *,
    ibn: bool = False,
    non_local: str = "",
) -> tuple[nn.Module, int]:
    """A ResNet; its non-local blocks, if any, have `non_local` channels: "half" of their input's, or "one"."""
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
    if non_local:
        for stage, count in zip(("layer2", "layer3"), NON_LOCAL_BLOCKS[name], strict=True):
            children[stage] = _add_non_local(children[stage], count, non_local)
    return nn.Sequential(OrderedDict(children)), net.fc.in_features


def _build_resnest(
    name: str, last_stride: int, _stem: str, _size: tuple[int, int], *, non_local: str = ""
) -> tuple[nn.Module, int]:
    """The ResNeSt that timm calls `name`; `non_local` as for `_build_resnet`."""
    # The version of fast-reid with non-local blocks in it is older than the dilation.
    layers, channels = timm_backbone.build_resnest(name, last_stride, dilated=not non_local)
    if non_local:
        for stage, count in zip(("layer2", "layer3"), NON_LOCAL_BLOCKS["resnet50"], strict=True):
            layers[stage] = _add_non_local(layers[stage], count, non_local)
    return nn.Sequential(layers), channels


def _add_non_local(stage: nn.Module, count: int, inner: str) -> nn.Sequential:
    """`stage` with a non-local block behind each of its last `count` blocks."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    blocks = dict(stage.named_children())
    block: Any
    for index, (key, block) in enumerate(blocks.items(), count - len(blocks)):
        layers[key] = block
        if index >= 0:
            channels = block.bn3.num_features
            layers[f"{NON_LOCAL}{index}"] = NonLocal(channels, channels // 2 if inner == "half" else 1)
    return nn.Sequential(layers)


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
    # Non-local blocks of AGW and of fast-reid until 2021 have one channel, later ones half of their input's.
    **{
        f"{name}{suffix}{'_ibn_a' if ibn else ''}": Backbone(
            partial(_build_resnet, name, ibn=ibn, non_local=inner),
            stems=STEMS,
            torchvision_name=None if ibn else name,
            extra_layers_key=f".{NON_LOCAL}",
        )
        for name in NON_LOCAL_BLOCKS
        for ibn in (False, True)
        for suffix, inner in (("_nl", "half"), ("_nl1", "one"))
    },
    **{
        f"resnest50{suffix}": Backbone(
            partial(_build_resnest, "resnest50d", non_local=inner),
            extra_layers_key=f".{NON_LOCAL}",
            timm_name="resnest50d",
        )
        for suffix, inner in (("", ""), ("_nl", "half"), ("_nl1", "one"))
    },
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
        name = arch.removeprefix(timm_backbone.PREFIX).removesuffix(timm_backbone.WITH_INSTANCE_NORM)
        normalised = arch.endswith(timm_backbone.WITH_INSTANCE_NORM)
        config = timm_backbone.pretrained_config(name)
        return Backbone(
            partial(timm_backbone.build, name, instance_norm=normalised),
            extra_layers_key=f".{timm_backbone.INSTANCE_NORM}." if normalised else "",
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


class GeM(nn.Module):
    """Generalised-mean pooling (Radenovic et al., TPAMI 2019): the mean of the p-th powers, to the power of 1 / p."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), GEM_POWER))

    def forward(self, features: Tensor) -> Tensor:
        pooled: Tensor = features.clamp(min=MIN_POOLED).pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)
        return pooled


class ReID(nn.Module):
    """Backbone, pooling, neck and classifier (paper figure 2b).

    The input is normalised images, float [N, 3, H, W]; some backbones take only images of `size`, (height, width). In
    training, the output is f_t [N, D], the feature before the neck, f_i [N, D], the feature after it, and the logits
    [N, num_ids]. In evaluation, it is the embedding [N, D], not yet L2-normalised.

    The paper pools by the average. With `reduced_dim`, a linear layer makes D numbers of the pooled ones.

    Raises:
        InputError: an unknown backbone, neck or pooling, or a stem that the backbone does not have.
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
        pooling: str = "average",
        reduced_dim: int = 0,
    ) -> None:
        super().__init__()
        backbone = find_backbone(arch)
        if neck not in NECKS:
            raise InputError(f"unknown neck {neck!r}; choose from {', '.join(NECKS)}")
        if stem not in backbone.stems:
            raise InputError(f"{arch} has no stem {stem!r}; choose from {', '.join(backbone.stems)}")
        if pooling not in POOLINGS:
            raise InputError(f"unknown pooling {pooling!r}; choose from {', '.join(POOLINGS)}")
        self.arch, self.feature, self.size = arch, feature_code(feature), size
        self.mean, self.std = backbone.mean, backbone.std  # of its input
        self.backbone, self.dim = backbone.build(last_stride, stem, size)
        self.pool: nn.Module | None = GeM() if pooling == "gem" else None
        self.reduction: nn.Module = nn.Identity()
        if reduced_dim:
            self.reduction, self.dim = nn.Linear(self.dim, reduced_dim, bias=False), reduced_dim
        self.neck = _build_neck(neck, self.dim)
        # Paper section 3.5: no shift in the neck, no bias in the classifier.
        self.classifier = nn.Linear(self.dim, num_ids, bias=neck == "none")
        if neck != "none":
            nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        features = self.backbone(images).float()  # pool in float32 even under autocast
        # The average as rows: their gradient stays in channels_last memory.
        pooled = self.pool(features) if self.pool else features.permute(0, 2, 3, 1).flatten(1, 2).mean(1)
        f_t = self.reduction(pooled)
        if not self.training and self.feature == "ft":
            return cast("Tensor", f_t)
        f_i = self.neck(f_t)
        return (f_t, f_i, self.classifier(f_i)) if self.training else f_i


class Parts(Protocol):
    """What an inference graph is made of: `ReID`, or a network of another toolkit that only runs here."""

    arch: str
    dim: int
    feature: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    backbone: nn.Module
    pool: nn.Module | None
    reduction: nn.Module
    neck: nn.Module

    def state_dict(self) -> dict[str, Any]:
        """The weights."""


class InferenceGraph(nn.Module):
    """The network that is evaluated and exported: images uint8 [N, H, W, 3] RGB to embeddings float32 [N, D].

    Embeddings have length 1. With `unit_length=False` they keep the length that the network gives them, as Euclidean
    distances in experiments need it.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: Parts, contract: Contract, *, unit_length: bool = True) -> None:
        super().__init__()
        self.unit_length, self.flip = unit_length, contract.flip
        self.backbone, self.pool, self.reduction = model.backbone, model.pool, model.reduction
        self.neck = model.neck if contract.feature == "after" else nn.Identity()
        mean, std = torch.tensor(contract.mean), torch.tensor(contract.std)
        # (x / 255 - mean) / std as one multiply and one add.
        self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1))
        self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        # Cast first: TensorRT can only cast uint8.
        pixels = images.float().permute(0, 3, 1, 2) * self.scale + self.shift
        if self.flip:
            pixels = torch.cat([pixels, pixels.flip(3)])
        # All that follows the backbone is in float32, even if that runs in FP16 or INT8.
        features = self.backbone(pixels).float()
        pooled = self.pool(features) if self.pool else features.mean(dim=(2, 3))
        embedding: Tensor = self.neck(self.reduction(pooled))
        if self.flip:
            embedding = embedding.reshape(2, -1, embedding.shape[1]).mean(0)
        return embedding / embedding.norm(dim=1, keepdim=True).clamp(min=1e-12) if self.unit_length else embedding


def add_prefix(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with "prefix." before each key."""
    return {f"{prefix}.{key}": value for key, value in state.items()}
