"""The backbone in FP16; layers too sensitive to it stay in float32.

The weights carry the types, and so does the exported graph. TensorRT 11 has no flag for FP16 any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from .graph import replace_layer
from .sensitivity import layer_errors, run_with

if TYPE_CHECKING:
    from bot_deploy.images import Pixels
    from bot_deploy.model import InferenceGraph

    from .sensitivity import Layer

MAX_LAYER_ERROR = 5e-3  # relative; rounding alone causes about 5e-4


class _CastInput(nn.Module):
    """A layer whose input is cast to the type of its weights; a linear layer gives float32.

    What follows a convolution mostly has no weights and takes FP16 as well. Linear layers are followed by attention and
    normalisation, which add up many terms.
    """

    def __init__(self, layer: nn.Module, weight: Tensor) -> None:
        super().__init__()
        self.layer, self.dtype = layer, weight.dtype

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.layer(features.to(self.dtype))
        return output.float() if isinstance(self.layer, nn.Linear) else output


class _Float32Input(nn.Module):
    """A normalisation in float32: in ONNX it takes input and weights of one type only."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.norm(features.float())
        return output


def to_fp16(graph: InferenceGraph, crops: Pixels) -> list[str]:
    """Rounds the convolutions and linear layers of `graph` to FP16 in place.

    A layer stays in float32 if its own error on `crops` uint8 [N, H, W, 3] exceeds MAX_LAYER_ERROR, or if its input,
    weights or output overflow. Normalisation, pooling, neck and length are always in float32.

    Returns:
        The names of the layers that stay in float32.
    """
    errors = layer_errors(graph, crops, _imitate_fp16)
    float32_layers = [name for name, error in errors.items() if not error <= MAX_LAYER_ERROR]  # also for a NaN
    norms = [name for name, module in graph.backbone.named_modules() if _is_norm(module)]
    for name in errors:
        layer = graph.backbone.get_submodule(name)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        rounded = layer if name in float32_layers else layer.half()
        replace_layer(graph.backbone, name, _CastInput(rounded, rounded.weight))
    for name in norms:
        replace_layer(graph.backbone, name, _Float32Input(graph.backbone.get_submodule(name)))
    return float32_layers


def _is_norm(module: nn.Module) -> bool:
    """Whether `module` is a normalisation with weights, which stay in float32; timm has many of its own."""
    return "norm" in type(module).__name__.lower() and any(True for _ in module.parameters(recurse=False))


def _imitate_fp16(layer: Layer, features: Tensor) -> Tensor:
    bias = None if layer.bias is None else _round(layer.bias)
    # The GPUs that engines run on multiply in FP16 and sum in float32.
    return _round(run_with(layer, _round(features), _round(layer.weight), bias))


def _round(values: Tensor) -> Tensor:
    return values.half().float()
