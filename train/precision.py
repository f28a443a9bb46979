"""The number format that trains fastest on this machine."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from bot_deploy.errors import GPU_HINT, InputError

if TYPE_CHECKING:
    from .recipe import Recipe

# oneDNN (torch 2.14, AVX512-BF16) reads uninitialised memory for the bf16 gradients of a strided 3x3 convolution with
# an output one pixel high or wide. Images with a side below this limit have such feature maps.
MIN_BF16_SIDE = 64  # pixels
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def resolve_precision(recipe: Recipe, device: str) -> Recipe:
    """`recipe` with "bf16", "fp16" or "fp32" in place of the precision "auto".

    "auto" means bf16 if the hardware computes in it; a CPU that only emulates bf16 is fifty times slower than in
    float32. Otherwise it means fp16 on a GPU and float32 on a CPU. A CPU also takes float32 for images with a side
    below MIN_BF16_SIDE.

    Raises:
        InputError: fp16 on a CPU.
    """
    gpu = device != "cpu"
    if recipe.precision == "fp16" and not gpu:
        raise InputError(f"precision=fp16 needs a GPU; use precision=bf16; {GPU_HINT}", parameter="set")
    if recipe.precision != "auto":
        return recipe
    if gpu:
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        smallest_side = min(recipe.height, recipe.width) // (2 if recipe.small_epochs else 1)
        native = _cpu_has_bf16() and smallest_side >= MIN_BF16_SIDE
    return dataclasses.replace(recipe, precision="bf16" if native else "fp16" if gpu else "fp32")


def _cpu_has_bf16() -> bool:
    return any(available for name, available in torch.cpu.get_capabilities().items() if "bf16" in name)
