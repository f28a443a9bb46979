"""Global settings of PyTorch that training needs, changed only while it runs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def full_float32() -> Iterator[None]:
    """Turns off TF32 in cuDNN, so that float32 is float32, and restores the setting afterwards."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
