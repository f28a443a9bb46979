"""A recipe: everything that decides how a model is trained, as one frozen dataclass read from TOML."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from bot_deploy.choices import FEATURES, IMAGE_HEIGHT, IMAGE_WIDTH, METRICS, NECKS, PROTOCOLS, TRAINING_PRECISIONS
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

# key -> what its value must be
RANGES = {
    **dict.fromkeys(("height", "width", "epochs", "p", "k", "lr", "last_stride"), "above 0"),
    **dict.fromkeys(("seed", "weight_decay", "warmup_epochs", "gamma", "pad", "margin"), "0 or above"),
    **dict.fromkeys(("center_weight", "center_lr", "eval_every"), "0 or above"),
    **dict.fromkeys(("flip", "erasing", "smoothing"), "from 0 to 1"),
}


CHOICES = {
    "protocol": PROTOCOLS,
    "precision": TRAINING_PRECISIONS,
    "feature": FEATURES,
    "metric": METRICS,
    "neck": NECKS,
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every trick of the paper is one key; the comment says which value turns it off."""

    arch: str = "resnet50"
    weights: str = "imagenet"  # "imagenet", a file, or "none"
    height: int = IMAGE_HEIGHT
    width: int = IMAGE_WIDTH
    epochs: int = 120
    seed: int = 0
    protocol: str = "authors"  # whose version, where the paper and its released code differ
    precision: str = "auto"  # of autocast: "bf16", "fp16" (on a GPU), "fp32" for none, or the fastest here

    p: int = 16  # identities in a batch
    k: int = 4  # images of each

    lr: float = 3.5e-4
    weight_decay: float = 5e-4
    warmup_epochs: int = 10  # 0: no warmup (section 3.1)
    milestones: tuple[int, ...] = (40, 70)  # epochs
    gamma: float = 0.1

    flip: float = 0.5  # probability
    pad: int = 10  # pixels
    erasing: float = 0.5  # probability; 0: no random erasing (section 3.2)

    smoothing: float = 0.1  # epsilon; 0: no label smoothing (section 3.3)
    last_stride: int = 1  # 2: the backbone's own (section 3.4)
    neck: str = "bnneck"  # "none": one feature for both losses (section 3.5); "l2norm": the outlook's question
    feature: str = "fi"  # what is matched: "fi" after the neck, "ft" before it
    metric: str = "cosine"  # of the scores in training: "cosine" or "euclidean"; an export is always cosine
    margin: float = 0.3
    center_weight: float = 5e-4  # 0: no center loss (section 3.6)
    center_lr: float = 0.5

    compile: bool = False  # torch.compile
    eval_at_start: bool = False  # score the untrained model too
    eval_every: int = 0  # epochs; 0: only after the last

    def __post_init__(self) -> None:
        """Raises InputError for values that cannot be trained with."""
        for key, words in RANGES.items():
            value = getattr(self, key)
            inside = {"above 0": value > 0, "0 or above": value >= 0, "from 0 to 1": 0 <= value <= 1}
            if not (inside[words] and math.isfinite(value)):
                raise InputError(f"recipe: {key} must be {words}, not {value}")
        if list(self.milestones) != sorted(self.milestones):
            raise InputError(f"recipe: milestones must ascend, not {list(self.milestones)}")
        for key, values in CHOICES.items():
            if getattr(self, key) not in values:
                raise InputError(f"recipe: {key} is one of {', '.join(values)}, not {getattr(self, key)!r}")
        if self.p * self.k < 2:  # noqa: PLR2004 - batch-norm needs two
            raise InputError("recipe: a batch of p x k needs at least 2 images")


FIELDS = {field.name: field for field in dataclasses.fields(Recipe)}


def names() -> list[str]:
    """The recipes that ship."""
    folder = resources.files("bot_deploy.train.recipes")
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def load(name: str, overrides: Iterable[str] = (), weights: str | None = None) -> Recipe:
    """The recipe called `name`, with `overrides` like "epochs=20" and `weights` laid over it.

    Raises:
        InputError: no such recipe or key (the nearest name is suggested), or a value of another type.
    """
    if name not in names():
        raise InputError(f"no recipe {name!r}{_nearest(name, names())}; there are {', '.join(names())}")
    text = resources.files("bot_deploy.train.recipes").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    values = tomllib.loads(text)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise InputError(f"--set {override}: write key=value")
        values[key.strip()] = _parse(value.strip())
    if weights:
        values["weights"] = weights
    return from_values(values)


def from_values(values: dict[str, Any]) -> Recipe:
    """A recipe of `values`; unknown keys and wrong types raise InputError."""
    return Recipe(**{key: _typed(key, value) for key, value in values.items()})


def to_toml(recipe: Recipe) -> str:
    """Every key, resolved, as TOML that `from_values` reads back."""
    return "".join(f"{key} = {toml_value(value)}\n" for key, value in dataclasses.asdict(recipe).items())


def toml_value(value: object) -> str:
    """A string, number, boolean or tuple of numbers as TOML."""
    if isinstance(value, bool | str):
        # TOML's basic strings escape as JSON's do, and the delete character besides.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(list(value)) if isinstance(value, tuple) else repr(value)


def _parse(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string


def _typed(key: str, value: object) -> Any:
    if key not in FIELDS:
        raise InputError(f"recipe: no key {key!r}{_nearest(key, FIELDS)}; there are {', '.join(FIELDS)}")
    default = FIELDS[key].default
    if isinstance(default, tuple) and isinstance(value, list | tuple) and all(type(item) is int for item in value):
        return tuple(value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        kind = "list of whole numbers" if isinstance(default, tuple) else type(default).__name__
        raise InputError(f"recipe: {key} is a {kind} such as {toml_value(default)}, not {value!r}")
    return value


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
