"""The backbone in FP16, with the layers in float32 that FP16 cannot hold.

The types are in the weights and so in the exported graph: TensorRT 11 has no FP16 flag any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from bot_deploy.model import IBN

from .sensitivity import layer_errors

if TYPE_CHECKING:
    from bot_deploy.images import Pixels
    from bot_deploy.model import InferenceGraph

TOLERANCE = 5e-3  # of a layer's relative error; rounding alone makes about 5e-4


class _InItsOwnType(nn.Module):
    """A convolution that takes its input in the type of its weights."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.conv(features.to(self.conv.weight.dtype))
        return output


class _InFloat32(nn.Module):
    """Instance and batch normalisation side by side: ONNX has the former in one type only, its weights' too."""

    def __init__(self, ibn: nn.Module) -> None:
        super().__init__()
        self.ibn = ibn

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.ibn(features.float())
        return output


def to_fp16(graph: InferenceGraph, crops: Pixels) -> list[str]:
    """Rounds the convolutions of `graph` to FP16 in place; returns the names of those that were left in float32.

    A convolution stays when on `crops` uint8 [N, H, W, 3] its input, weights or output do not survive FP16:
    an overflow, or an error of more than TOLERANCE. Normalisation, pooling, neck and length are float32 anyway.
    """
    found = layer_errors(graph, crops, _in_fp16)
    kept = [name for name, error in found.items() if not error <= TOLERANCE]  # a NaN stays, too
    for name in found:
        parent, _, attribute = name.rpartition(".")
        conv = graph.backbone.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        setattr(graph.backbone.get_submodule(parent), attribute, _InItsOwnType(conv if name in kept else conv.half()))
    for module in list(graph.backbone.modules()):
        for attribute, child in module.named_children():
            if isinstance(child, IBN):
                setattr(module, attribute, _InFloat32(child))
    return kept


def _in_fp16(conv: nn.Conv2d, features: Tensor) -> Tensor:
    bias = None if conv.bias is None else _rounded(conv.bias)
    # Products of FP16 are summed in float32 on the GPUs that engines run on.
    return _rounded(conv._conv_forward(_rounded(features), _rounded(conv.weight), bias))  # noqa: SLF001


def _rounded(values: Tensor) -> Tensor:
    return values.half().float()
