"""Layers for training on a CPU: the same functions as PyTorch's, faster or with less memory.

The trainer puts them into the model that it trains. State-dict keys stay, and exported models do not have them.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn


def use_cpu_layers(model: nn.Module) -> None:
    """Replaces strided depthwise convolutions and in-place ReLU6 of `model`; parameters and results stay the same."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.ReLU6 and child.inplace:
                setattr(module, name, LeanReLU6(inplace=True))
            elif type(child) is nn.Conv2d and _is_strided_depthwise(child):
                setattr(module, name, StridedDepthwise(child))


def _is_strided_depthwise(conv: nn.Conv2d) -> bool:
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    depthwise = conv.groups == conv.in_channels == conv.out_channels
    return depthwise and conv.bias is None and shape == ((3, 3), (2, 2), (1, 1), (1, 1))


class StridedDepthwise(nn.Conv2d):
    """A 3x3 depthwise convolution of stride 2 with a fast gradient on a CPU.

    oneDNN computes the gradient of a strided depthwise convolution over ten times slower than that of an unstrided
    one. Convolving at stride 1 and keeping every second output is the same function. It makes the training of the
    whole MobileNetV2 about 1.7 times faster.
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
    """Every second row and column of [N, C, H, W], with a gradient in channels_last memory.

    The gradient of plain slicing is contiguous, and all layers before it would then run several times slower.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        ctx.shape = images.shape
        return images[..., ::2, ::2].contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = torch.empty(ctx.shape, dtype=grads[0].dtype, memory_format=torch.channels_last).zero_()
        grad[..., ::2, ::2] = grads[0]
        return grad


class LeanReLU6(nn.ReLU6):
    """An in-place ReLU6 that keeps only its output for the gradient; torch's own keeps a copy of its input."""

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
        grad: Tensor = torch.ops.aten.hardtanh_backward(grads[0], clamped, 0.0, 6.0)
        return grad
