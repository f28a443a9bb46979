"""The number format that a run trains in."""

from __future__ import annotations

import pytest
import torch

from bot_deploy.errors import InputError
from bot_deploy.train.precision import resolve_precision
from bot_deploy.train.recipe import Recipe


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "fp32"),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16"),
        ({}, "fp32"),
    ],
)
def test_a_cpu_trains_in_bf16_only_where_it_computes_in_it(
    capabilities: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_precision(Recipe(), "cpu").precision == expected


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_without_bf16_trains_in_fp16(native: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native and not including_emulation)
    assert resolve_precision(Recipe(), "cuda:1").precision == expected


def test_a_given_precision_is_kept() -> None:
    assert resolve_precision(Recipe(precision="bf16"), "cpu").precision == "bf16"
    assert resolve_precision(Recipe(precision="fp16"), "cuda").precision == "fp16"
    with pytest.raises(InputError, match=r"precision=fp16 needs a GPU.*`bot env`"):
        resolve_precision(Recipe(precision="fp16"), "cpu")


@pytest.mark.parametrize(("size", "expected"), [((128, 64), "bf16"), ((64, 32), "fp32"), ((32, 128), "fp32")])
def test_a_cpu_trains_tiny_images_in_float32(
    size: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert resolve_precision(Recipe(height=size[0], width=size[1]), "cpu").precision == expected
