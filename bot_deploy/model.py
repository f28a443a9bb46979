"""The networks: torchvision backbones with last stride 1 (and IBN-a), BNNeck, and the complete inference graph.

The only runtime file that imports torch; nothing that a deployed machine runs imports it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from bot_deploy.choices import NECKS, STEMS
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchvision.models.resnet import ResNet

    from bot_deploy.artifacts.contract import Contract

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
IBN_A = "_ibn_a"
ARCHS = (*RESNETS, *(arch + IBN_A for arch in RESNETS), "mobilenet_v2")
L2_LENGTH = 16.0  # of the features after an l2norm neck; at length 1 the classifier could hardly be sure of anything


class IBN(nn.Module):
    """IBN-a (Pan et al., ECCV 2018): instance normalisation for half of the channels, batch-norm for the others."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.middle = channels // 2
        self.IN = nn.InstanceNorm2d(self.middle, affine=True)  # named as everybody's weights are
        self.BN = nn.BatchNorm2d(channels - self.middle)

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([self.IN(features[:, : self.middle]), self.BN(features[:, self.middle :])], 1)


def _resnet(arch: str, last_stride: int, stem: str) -> tuple[nn.Module, int]:
    from torchvision import models

    net: ResNet = getattr(models, arch.removesuffix(IBN_A))(weights=None)
    block: Any
    if arch.endswith(IBN_A):
        for block in (*net.layer1, *net.layer2, *net.layer3):
            block.bn1 = IBN(block.bn1.num_features)
    if stem == "no-relu":
        net.relu = nn.Identity()
    elif stem == "unpadded-pool":
        net.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    block = net.layer4[0]
    # The stride sits in a Bottleneck's second convolution and in a BasicBlock's first (paper section 3.4).
    strided = block.conv2 if hasattr(block, "conv3") else block.conv1
    strided.stride = block.downsample[0].stride = (last_stride, last_stride)
    children = {name: child for name, child in net.named_children() if name not in {"avgpool", "fc"}}
    return nn.Sequential(OrderedDict(children)), net.fc.in_features


class _StridedDepthwise(nn.Conv2d):
    """A 3x3 depthwise convolution of stride 2 whose training on a CPU is not held up by its gradient.

    oneDNN's gradient of a strided depthwise convolution is over ten times slower than of an
    unstrided one; convolving at stride 1 and keeping every second output is the same function, and
    trains the whole MobileNetV2 about 1.7 times faster.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(
            conv.in_channels, conv.out_channels, 3, stride=2, padding=1, groups=conv.groups, bias=False, device="meta"
        )
        self.weight = conv.weight

    def forward(self, images: Tensor) -> Tensor:
        if not self.training or images.device.type != "cpu":
            return super().forward(images)
        dense = nn.functional.conv2d(images, self.weight, padding=1, groups=self.groups)
        return cast("Tensor", _EverySecond.apply(dense))


class _EverySecond(torch.autograd.Function):
    """Every second row and column of [N, C, H, W]; forward and backward in channels_last memory.

    The gradient of slicing is in the other memory order, in which everything before it takes several times as long.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        ctx.shape = images.shape
        return images[..., ::2, ::2].contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        whole = torch.empty(ctx.shape, dtype=grads[0].dtype, memory_format=torch.channels_last).zero_()
        whole[..., ::2, ::2] = grads[0]
        return whole


class _ReLU6(nn.ReLU6):
    """ReLU6 in place that remembers its output: torch's own remembers a copy of its input for the same gradient."""

    def forward(self, features: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()) or torch.compiler.is_compiling():
            return super().forward(features)
        return cast("Tensor", _ClampTo6.apply(features))


class _ClampTo6(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.mark_dirty(features)
        ctx.save_for_backward(features.clamp_(0, 6))
        return features

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (clamped,) = ctx.saved_tensors
        passed: Tensor = torch.ops.aten.hardtanh_backward(grads[0], clamped, 0.0, 6.0)
        return passed


def _mobilenet_v2(last_stride: int) -> tuple[nn.Module, int]:
    from torchvision import models

    net = models.mobilenet_v2(weights=None)
    # features.14 is the last block that halves the map; its depthwise convolution carries the stride.
    depthwise: Any = net.features[14].conv[1][0]
    depthwise.stride = (last_stride, last_stride)
    for block in net.features[2:-1]:
        if block.conv[1][0].stride == (2, 2):
            block.conv[1][0] = _StridedDepthwise(block.conv[1][0])
    for module in list(net.features.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(module, name, _ReLU6(inplace=True))
    return nn.Sequential(OrderedDict(features=net.features)), net.last_channel


def _neck(kind: str, dim: int) -> nn.Module:
    if kind == "bnneck":
        norm = nn.BatchNorm1d(dim)
        norm.bias.requires_grad = False
        return norm
    return _L2Norm() if kind == "l2norm" else nn.Identity()


class _L2Norm(nn.Module):
    """The paper's outlook (section 6): L2 normalisation in the place of BNNeck."""

    def forward(self, features: Tensor) -> Tensor:
        return L2_LENGTH * nn.functional.normalize(features, dim=1)


class ReID(nn.Module):
    """Backbone, global average pooling, neck and classifier (paper figure 2b).

    In training, images float [N, 3, H, W] (normalised) to (f_t [N, D], logits [N, num_ids]); in
    evaluation to the embedding [N, D], not yet L2-normalised.
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
    ) -> None:
        super().__init__()
        if arch not in ARCHS:
            raise InputError(f"unknown backbone {arch!r}; choose from {', '.join(ARCHS)}")
        if neck not in NECKS:
            raise InputError(f"unknown neck {neck!r}; choose from {', '.join(NECKS)}")
        if stem not in STEMS or (stem != STEMS[0] and arch == "mobilenet_v2"):
            raise InputError(f"unknown stem {stem!r} of {arch}; choose from {', '.join(STEMS)} (MobileNetV2: one)")
        self.arch, self.feature = arch, feature
        mobile = arch == "mobilenet_v2"
        self.backbone, self.dim = _mobilenet_v2(last_stride) if mobile else _resnet(arch, last_stride, stem)
        self.neck = _neck(neck, self.dim)
        # Paper section 3.5: no shift in the neck, no bias in the classifier.
        self.classifier = nn.Linear(self.dim, num_ids, bias=neck == "none")
        if neck != "none":
            nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        # In float32 under autocast, too; as rows, so that the gradient stays in channels_last memory.
        f_t = self.backbone(images).float().permute(0, 2, 3, 1).flatten(1, 2).mean(1)
        if not self.training and self.feature == "ft":
            return cast("Tensor", f_t)
        f_i = self.neck(f_t)
        return (f_t, self.classifier(f_i)) if self.training else f_i


class InferenceGraph(nn.Module):
    """What is evaluated and exported: images uint8 [N, H, W, 3] RGB to unit vectors float32 [N, D].

    With `unit` off, vectors as long as the network makes them, for Euclidean distances in experiments.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: ReID, contract: Contract, *, unit: bool = True) -> None:
        super().__init__()
        self.unit, self.flip = unit, contract.flip
        self.backbone, self.neck = model.backbone, model.neck if contract.feature == "fi" else nn.Identity()
        mean, std = torch.tensor(contract.mean), torch.tensor(contract.std)
        # (x / 255 - mean) / std as one multiply and one add.
        self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1))
        self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        # Cast first: TensorRT does nothing else with uint8.
        pixels = images.float().permute(0, 3, 1, 2) * self.scale + self.shift
        if self.flip:
            pixels = torch.cat([pixels, pixels.flip(3)])
        # Pooling, neck and length in float32, whatever the backbone computes in.
        embedding: Tensor = self.neck(self.backbone(pixels).float().mean(dim=(2, 3)))
        if self.flip:
            embedding = embedding.reshape(2, -1, embedding.shape[1]).mean(0)
        return embedding / embedding.norm(dim=1, keepdim=True).clamp(min=1e-12) if self.unit else embedding


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{key}": value for key, value in state.items()}
