"""Nothing leaves the machine: runtimes that report to their makers are imported with their reports switched off."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# ONNX Runtime reads this variable once, while it is imported (from 1.29 on it reports by default).
ORT_VARIABLE = "ORT_DISABLE_TELEMETRY"
HUB_VARIABLE = "HF_HUB_DISABLE_TELEMETRY"  # of huggingface_hub, from which timm downloads weights
# OpenVINO reports each import to a web service through this package, and takes an empty stand-in where it is missing.
OPENVINO_SENDER = "openvino_telemetry"


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Runtimes that are imported inside the `with` block send no reports and leave no files.

    A variable that the user has set stays as it is. Environment and modules are afterwards as they were.
    """
    variables = [name for name in (ORT_VARIABLE, HUB_VARIABLE) if name not in os.environ]
    hides_sender = OPENVINO_SENDER not in sys.modules
    os.environ.update(dict.fromkeys(variables, "1"))
    if hides_sender:
        sys.modules[OPENVINO_SENDER] = None  # type: ignore[assignment] # importing it raises ModuleNotFoundError
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        if hides_sender:
            sys.modules.pop(OPENVINO_SENDER, None)
