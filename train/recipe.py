"""Recipes: all settings of a training run as one frozen dataclass, read from TOML files."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot_deploy.choices import (
    FEATURES,
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
    MAX_IMAGE_SIDE,
    METRICS,
    NECKS,
    PROTOCOLS,
    TRAINING_PRECISIONS,
    feature_name,
)
from bot_deploy.errors import InputError
from bot_deploy.files import read_bounded

if TYPE_CHECKING:
    from collections.abc import Iterable

# key -> range of its values
RANGES = {
    **dict.fromkeys(("height", "width", "epochs", "images_per_identity", "lr", "last_stride"), "above 0"),
    **dict.fromkeys(("seed", "weight_decay", "warmup_epochs", "gamma", "padding", "margin"), "0 or above"),
    **dict.fromkeys(("center_weight", "center_lr", "eval_every"), "0 or above"),
    **dict.fromkeys(("label_weight", "relation_weight", "direction_weight", "unlabeled_batch"), "0 or above"),
    "compatibility_weight": "0 or above",
    **dict.fromkeys(("small_epochs", "fixed_norm_epochs"), "0 or above"),
    **dict.fromkeys(("cluster_distance", "memory_temperature"), "above 0"),
    "memory_momentum": "from 0 to 1",
    **dict.fromkeys(("flip_probability", "erasing_probability", "label_smoothing"), "from 0 to 1"),
    **dict.fromkeys(("color_jitter", "grayscale_probability", "jpeg_probability"), "from 0 to 1"),
}

CHOICES = {
    "protocol": PROTOCOLS,
    "precision": TRAINING_PRECISIONS,
    "feature": tuple(FEATURES),
    "metric": METRICS,
    "neck": NECKS,
}
MIN_IDENTITIES = 2  # in a batch: the triplet loss compares a person with another
# key -> greatest value; larger numbers are slips of the keyboard, or damage
GREATEST = {
    **dict.fromkeys(("height", "width", "padding"), MAX_IMAGE_SIDE),
    **dict.fromkeys(("identities_per_batch", "images_per_identity", "unlabeled_batch"), 10_000),
    **dict.fromkeys(("epochs", "warmup_epochs", "eval_every", "small_epochs", "fixed_norm_epochs"), 1_000_000),
    "seed": 2**63 - 1,
    "last_stride": 2,
    "cluster_distance": 0.99,  # at 1, all crops would be one person
}
# older name of a key -> its name; both are read
OLD_KEYS = {
    "p": "identities_per_batch",
    "k": "images_per_identity",
    "flip": "flip_probability",
    "pad": "padding",
    "erasing": "erasing_probability",
    "smoothing": "label_smoothing",
    "colour_jitter": "color_jitter",
    "greyscale_probability": "grayscale_probability",
    "unlabelled_batch": "unlabeled_batch",
}
MAX_TOML_BYTES = 1 << 20
RUN_TABLES = ("data", "versions")  # tables that a run's config.toml has after the recipe


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of a training run. Each trick of the paper is one key; its comment says how to turn it off."""

    arch: str = "resnet50"
    weights: str = "imagenet"  # initial weights: "imagenet", "box", a file, or "none"
    height: int = IMAGE_HEIGHT
    width: int = IMAGE_WIDTH
    epochs: int = 120
    seed: int = 0
    protocol: str = "authors"  # which to follow where they differ: "authors" (the released code) or "paper"
    precision: str = "auto"  # of autocast: "bf16", "fp16" (GPU only), "fp32" (none), "auto" (fastest on this machine)

    identities_per_batch: int = 16  # P of the paper
    images_per_identity: int = 4  # in a batch, K of the paper

    lr: float = 3.5e-4
    weight_decay: float = 5e-4
    warmup_epochs: int = 10  # 0: no warmup (section 3.1)
    milestones: tuple[int, ...] = (40, 70)  # epochs at which the learning rate is multiplied by gamma
    gamma: float = 0.1

    flip_probability: float = 0.5  # of a horizontal flip
    padding: int = 10  # pixels around the image before a random crop
    erasing_probability: float = 0.5  # 0: no random erasing (section 3.2)
    color_jitter: float = 0.0  # greatest relative change of brightness, contrast and saturation; 0: no colour jitter
    grayscale_probability: float = 0.0  # that an image loses its colours
    jpeg_probability: float = 0.0  # that an image is compressed as JPEG, with a quality from 20 to 90

    label_smoothing: float = 0.1  # epsilon; 0: no label smoothing (section 3.3)
    last_stride: int = 1  # 2: the backbone's own (section 3.4)
    neck: str = "bnneck"  # "none": one feature for both losses (section 3.5); "l2norm": L2 norm (section 6)
    feature: str = "after"  # the embedding: "after" or "before" the neck; the paper's "fi" and "ft" are accepted
    metric: str = "cosine"  # of the evaluation in training: "cosine" or "euclidean"; exported models use cosine
    margin: float = 0.3  # of the triplet loss
    center_weight: float = 5e-4  # 0: no center loss (section 3.6)
    center_lr: float = 0.5

    fit_heads: bool = True  # with the weights of a ReID model: new heads start from its embeddings, not at random
    label_weight: float = 1.0  # of the three losses above, beside those of a teacher or an earlier model
    relation_weight: float = 10.0  # with a teacher: of the cosines within a batch
    direction_weight: float = 1.0  # with a teacher: of the direction of each embedding
    compatibility_weight: float = 10.0  # with an earlier model: of the direction that it gives each person
    unlabeled_batch: int = 32  # with unlabelled data: their crops in a batch, beside the labelled ones

    cluster_distance: float = 0.6  # without labels: Jaccard distance of two crops that may show one person
    memory_momentum: float = 0.1  # without labels: share of a person's vector that stays when a crop moves it
    memory_temperature: float = 0.05  # without labels: of the cosines of crops and people

    small_epochs: int = 0  # first epochs, on crops of half the height and width
    fixed_norm_epochs: int = 0  # last epochs, in which batch-norm keeps its statistics, as in the finished model
    compile: bool = False  # torch.compile
    sync_batch_norm: bool = True  # on several GPUs: batch-norm over the whole batch; False: over each GPU's share
    eval_at_start: bool = False  # evaluate the untrained model too
    eval_every: int = 0  # epochs between two evaluations; 0: only after the last epoch

    def __post_init__(self) -> None:
        """Raises InputError if a value is out of its range."""
        object.__setattr__(self, "feature", feature_name(self.feature))
        for key, allowed in RANGES.items():
            value = getattr(self, key)
            in_range = {"above 0": value > 0, "0 or above": value >= 0, "from 0 to 1": 0 <= value <= 1}[allowed]
            if not in_range or value in {math.inf, -math.inf}:
                raise InputError(f"{key} must be {allowed}, not {value}")
            if key in GREATEST and value > GREATEST[key]:
                raise InputError(f"{key} must be at most {GREATEST[key]}, not {_shorten(value)}")
        if list(self.milestones) != sorted(self.milestones):
            raise InputError(f"milestones must be in ascending order, not {list(self.milestones)}")
        for key, choices in CHOICES.items():
            if getattr(self, key) not in choices:
                raise InputError(f"{key} must be one of {', '.join(choices)}, not {getattr(self, key)!r}")
        if self.identities_per_batch < MIN_IDENTITIES:
            raise InputError(
                f"identities_per_batch must be {MIN_IDENTITIES} or above, not {self.identities_per_batch}: the triplet "
                "loss compares a person with another"
            )


FIELDS = {field.name: field for field in dataclasses.fields(Recipe)}
TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}


def recipe_names() -> list[str]:
    """Names of the built-in recipes."""
    folder = resources.files("bot_deploy.train.recipes")
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def load_recipe(name: str | Path, overrides: Iterable[str] = (), weights: str | None = None) -> Recipe:
    """The built-in recipe `name`, or the recipe in the .toml file `name`; config.toml of a run is one too.

    `overrides`, such as "epochs=20", and `weights` replace its values.

    Raises:
        InputError: no such recipe, file or key (the message suggests the nearest name), or a wrong value.
    """
    recipe = _read_recipe(name)
    changes: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise InputError(f"{override!r} is not of the form key=value", parameter="set")
        key = key.strip()
        changes[OLD_KEYS.get(key, key)] = _parse_value(value.strip())
    if weights:
        changes["weights"] = weights
    return dataclasses.replace(recipe, **_check_types(changes))


def _read_recipe(name: str | Path) -> Recipe:
    if str(name) in recipe_names():
        text = resources.files("bot_deploy.train.recipes").joinpath(f"{name}.toml").read_text(encoding="utf-8")
        return recipe_from_values(tomllib.loads(text))
    path = Path(name)
    if path.suffix.lower() != ".toml":
        known, suggestion = recipe_names(), _suggest(str(name), recipe_names())
        raise InputError(
            f"no recipe {str(name)!r}{suggestion}; choose from {', '.join(known)}, or give a .toml file",
            parameter="recipe",
        )
    values = read_toml(path)
    try:
        return recipe_from_values(
            {key: value for key, value in values.items() if not (key in RUN_TABLES and isinstance(value, dict))}
        )
    except InputError as error:
        raise InputError(f"{path}: {error}", parameter="recipe") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The values in the TOML file `path`.

    Raises:
        InputError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(read_bounded(path, MAX_TOML_BYTES).decode())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})", parameter="recipe") from None
    except RecursionError:
        raise InputError(f"{path}: not a readable TOML file (nested too deeply)", parameter="recipe") from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise InputError(f"{path}: not a readable TOML file ({error})", parameter="recipe") from None


def recipe_from_values(values: dict[str, Any]) -> Recipe:
    """A recipe with these values by key; other keys have their defaults.

    Raises:
        InputError: an unknown key, a key under two names, or a value of the wrong type or out of its range.
    """
    for old, key in OLD_KEYS.items():
        if old in values and key in values:
            raise InputError(f"{old} is the older name of {key}; give one of them")
    return Recipe(**_check_types(values))


def to_toml(recipe: Recipe) -> str:
    """All keys of `recipe` as TOML, which `load_recipe` reads back from a file."""
    return "".join(f"{key} = {toml_value(value)}\n" for key, value in dataclasses.asdict(recipe).items())


def toml_value(value: object) -> str:
    """A string, number, boolean or tuple of these as TOML."""
    if isinstance(value, bool | str):
        # TOML's basic strings are JSON's, but TOML also escapes the delete character.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"[{', '.join(map(toml_value, value))}]" if isinstance(value, tuple) else repr(value)


def _parse_value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a string without quotes


def _check_types(values: dict[str, Any]) -> dict[str, Any]:
    renamed = {OLD_KEYS.get(key, key): value for key, value in values.items()}
    return {key: _check_type(key, value) for key, value in renamed.items()}


def _check_type(key: str, value: object) -> Any:
    if key not in FIELDS:
        raise InputError(f"a recipe has no key {key!r}{_suggest(key, FIELDS)}; its keys are {', '.join(FIELDS)}")
    default = FIELDS[key].default
    if isinstance(default, tuple) and isinstance(value, list | tuple) and all(type(item) is int for item in value):
        return tuple(value)
    if isinstance(default, float) and type(value) is int and abs(value) < 2**63:
        return float(value)
    if type(value) is not type(default):
        kind = "a list of whole numbers" if isinstance(default, tuple) else TYPE_NAMES[type(default)]
        raise InputError(f"{key} must be {kind} such as {toml_value(default)}, not {_shorten(value)}")
    return value


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004 - characters of a message


def _suggest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
