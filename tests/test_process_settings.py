"""Importing the library, opening a model and running it leave the settings of the process as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers.commands import run_python

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import logging, os, sys, warnings
from importlib import import_module

# What other packages set while they are imported is not ours.
import click, numpy as np, onnxruntime, torch, torchvision
from PIL import Image, ImageFile
try:
    import openvino
except ImportError:
    pass

torch.set_num_threads(2)
torch.backends.cudnn.allow_tf32 = True


def settings():
    cudnn = torch.backends.cudnn
    loggers = {name: logging.getLogger(name) for name in ("", "PIL", "torch", "openvino", "bot_deploy")}
    return {
        "warnings": list(warnings.filters),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "cudnn": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
        "matmul": (torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision()),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "levels": {name: logger.level for name, logger in loggers.items()},
        "disabled": (logging.root.manager.disable, [logger.disabled for logger in loggers.values()]),
        "root handlers": list(logging.root.handlers),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "numpy": np.geterr(),
        "pillow": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
        "excepthook": sys.excepthook,
    }


def changes():
    after = settings()
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}


before = settings()
import bot_deploy
from bot_deploy import open_embedder
for name in ("images", "embedder", "artifacts", "runs", "files", "machine", "progress", "backends.onnxruntime",
             "backends.openvino", "backends.nvidia", "backends.tensorrt", "backends.torch", "artifacts.checkpoint"):
    import_module(f"bot_deploy.{name}")
print("importing", changes())
embedder = open_embedder(sys.argv[1], sys.argv[2], threads=1)
print("opening", changes())
embedder.embed([np.zeros((9, 5, 3), np.uint8), np.full((9, 5, 3), 200, np.uint8)])
print("running", changes())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "device"), [("onnx_file", "cpu"), ("onnx_file", "openvino"), ("checkpoint_file", "cpu")]
)
def test_nothing_of_the_process_changes(kind: str, device: str, request: pytest.FixtureRequest) -> None:
    if device == "openvino":
        pytest.importorskip("openvino")
    model: Path = request.getfixturevalue(kind)
    done = run_python("-c", PROGRAM, model, device)
    assert done.stdout.splitlines() == ["importing {}", "opening {}", "running {}"], done.stderr


def test_pytorch_runs_on_the_threads_that_were_asked_for(checkpoint_file: Path) -> None:
    program = """
import sys, numpy as np, torch
torch.set_num_threads(2)
torch.backends.cudnn.allow_tf32 = True
from bot_deploy import open_embedder
from bot_deploy.model import InferenceGraph
seen, forward = [], InferenceGraph.forward
def watched(self, images):
    seen.append((torch.get_num_threads(), torch.backends.cudnn.allow_tf32))
    if len(seen) == 3:
        raise KeyboardInterrupt
    return forward(self, images)
InferenceGraph.forward = watched
crop = np.zeros((9, 5, 3), np.uint8)
for threads in (1, 2, 1):
    try:
        open_embedder(sys.argv[1], "cpu", threads=threads, check=False).embed(crop)
    except KeyboardInterrupt:
        pass
    print(torch.get_num_threads(), torch.backends.cudnn.allow_tf32)
print(seen)
"""
    done = run_python("-c", program, checkpoint_file)
    assert done.stdout.splitlines() == [*["2 True"] * 3, "[(1, False), (2, False), (1, False)]"], done.stderr
