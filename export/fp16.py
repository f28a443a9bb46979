"""The backbone in FP16; layers too sensitive to it stay in float32.

The weights carry the types, and so does the exported graph. TensorRT 11 has no flag for FP16 any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from bot_deploy.model import IBN

from .sensitivity import layer_errors

if TYPE_CHECKING:
    from bot_deploy.images import Pixels
    from bot_deploy.model import InferenceGraph

MAX_LAYER_ERROR = 5e-3  # relative; rounding alone causes about 5e-4


class _CastInput(nn.Module):
    """A convolution whose input is cast to the type of its weights."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.conv(features.to(self.conv.weight.dtype))
        return output


class _Float32IBN(nn.Module):
    """An IBN layer in float32: in ONNX, instance normalisation takes input and weights of one type only."""

    def __init__(self, ibn: nn.Module) -> None:
        super().__init__()
        self.ibn = ibn

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.ibn(features.float())
        return output


def to_fp16(graph: InferenceGraph, crops: Pixels) -> list[str]:
    """Rounds the convolutions of `graph` to FP16 in place.

    A convolution stays in float32 if its own error on `crops` uint8 [N, H, W, 3] exceeds MAX_LAYER_ERROR, or if its
    input, weights or output overflow. Normalisation, pooling, neck and length are always in float32.

    Returns:
        The names of the convolutions that stay in float32.
    """
    errors = layer_errors(graph, crops, _imitate_fp16)
    float32_convs = [name for name, error in errors.items() if not error <= MAX_LAYER_ERROR]  # also for a NaN
    for name in errors:
        parent, _, attribute = name.rpartition(".")
        conv = graph.backbone.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        rounded = conv if name in float32_convs else conv.half()
        setattr(graph.backbone.get_submodule(parent), attribute, _CastInput(rounded))
    for module in list(graph.backbone.modules()):
        for attribute, child in module.named_children():
            if isinstance(child, IBN):
                setattr(module, attribute, _Float32IBN(child))
    return float32_convs


def _imitate_fp16(conv: nn.Conv2d, features: Tensor) -> Tensor:
    bias = None if conv.bias is None else _round(conv.bias)
    # The GPUs that engines run on multiply in FP16 and sum in float32.
    return _round(conv._conv_forward(_round(features), _round(conv.weight), bias))  # noqa: SLF001


def _round(values: Tensor) -> Tensor:
    return values.half().float()
