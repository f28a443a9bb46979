"""Nothing leaves the machine, and no library leaves files of its own in the user's home.

Libraries that report to their makers are imported with their reports switched off.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from bot_deploy.errors import RunError
from bot_deploy.files import cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

# ONNX Runtime reads this variable once, while it is imported (from 1.29 on it reports by default).
ORT_VARIABLE = "ORT_DISABLE_TELEMETRY"
HUB_VARIABLE = "HF_HUB_DISABLE_TELEMETRY"  # of huggingface_hub, from which timm downloads weights
# Matplotlib writes a list of fonts to this folder. It reads the variable once, while it is imported.
MATPLOTLIB_VARIABLE = "MPLCONFIGDIR"
# OpenVINO reports each import to a web service through this package, and takes an empty stand-in where it is missing.
OPENVINO_SENDER = "openvino_telemetry"


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Libraries that are imported inside the `with` block send no reports, and leave files in our cache only.

    A variable that the user has set stays as it is. Environment and modules are afterwards as they were.
    """
    values = {ORT_VARIABLE: "1", HUB_VARIABLE: "1"}
    with suppress(RunError):  # no home folder: Matplotlib finds a temporary one
        values[MATPLOTLIB_VARIABLE] = str(cache_folder("matplotlib"))
    variables = {name: value for name, value in values.items() if name not in os.environ}
    hides_sender = OPENVINO_SENDER not in sys.modules
    os.environ.update(variables)
    if hides_sender:
        sys.modules[OPENVINO_SENDER] = None  # type: ignore[assignment] # importing it raises ModuleNotFoundError
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        if hides_sender:
            sys.modules.pop(OPENVINO_SENDER, None)
