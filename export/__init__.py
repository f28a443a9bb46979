"""Exports checkpoints to ONNX and TensorRT, proves that the embeddings stay the same, and imports foreign checkpoints.

The names below are loaded when they are used, so that `import bot_deploy.export` imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if __name__ != "bot_deploy.export":  # this folder on sys.path under its own name would be a second copy of every class
    raise ImportError("import bot_deploy.export, not export")

if TYPE_CHECKING:
    from .consumers import Consumer, make_consumer
    from .exported_model import ExportedModel
    from .importers.checkpoint import ImportedCheckpoint, import_checkpoint
    from .parity import TOLERANCES, Parity, Tolerance, compare_embeddings, sample_crops
    from .pipeline import export
    from .to_tensorrt import BuiltEngine, EngineOptions, to_engine
    from .wrap import wrap_model

__all__ = [
    "TOLERANCES",
    "BuiltEngine",
    "Consumer",
    "EngineOptions",
    "ExportedModel",
    "ImportedCheckpoint",
    "Parity",
    "Tolerance",
    "compare_embeddings",
    "export",
    "import_checkpoint",
    "make_consumer",
    "sample_crops",
    "to_engine",
    "wrap_model",
]

# name -> the module that defines it
_MODULES = {
    **dict.fromkeys(("Consumer", "make_consumer"), "consumers"),
    "ExportedModel": "exported_model",
    **dict.fromkeys(("ImportedCheckpoint", "import_checkpoint"), "importers.checkpoint"),
    **dict.fromkeys(("TOLERANCES", "Parity", "Tolerance", "compare_embeddings", "sample_crops"), "parity"),
    "export": "pipeline",
    **dict.fromkeys(("BuiltEngine", "EngineOptions", "to_engine"), "to_tensorrt"),
    "wrap_model": "wrap",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
