"""Which number format trains fastest on this machine."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from .recipe import Recipe

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def resolved(recipe: Recipe, device: str) -> Recipe:
    """`recipe` with its precision named, where it says "auto".

    bf16 where the hardware computes in it: a CPU that only imitates it is fifty times slower than in float32,
    and a GPU without it has fp16.
    """
    gpu = device != "cpu"
    if recipe.precision == "fp16" and not gpu:
        raise InputError("precision=fp16 needs a GPU; use --set precision=bf16")
    if recipe.precision != "auto":
        return recipe
    native = torch.cuda.is_bf16_supported(including_emulation=False) if gpu else _cpu_has_bf16()
    return dataclasses.replace(recipe, precision="bf16" if native else "fp16" if gpu else "fp32")


def _cpu_has_bf16() -> bool:
    return any(there for name, there in torch.cpu.get_capabilities().items() if "bf16" in name)
