"""Training, from crops to a checkpoint: `train(recipe, data, out)`.

The names below are loaded when they are used, so that `import bot_deploy.train` imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .loop import train
    from .losses import CenterLoss, TripletLoss
    from .pseudo_labels import train_unlabeled
    from .recipe import Recipe, load_recipe

if __name__ != "bot_deploy.train":  # this folder on sys.path under its own name would be a second copy of every class
    raise ImportError("import bot_deploy.train, not train")

__all__ = ["CenterLoss", "Recipe", "TripletLoss", "load_recipe", "train", "train_unlabeled"]

# name -> the module that defines it
_MODULES = {
    "CenterLoss": "losses",
    "Recipe": "recipe",
    "TripletLoss": "losses",
    "load_recipe": "recipe",
    "train": "loop",
    "train_unlabeled": "pseudo_labels",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
