"""Recipes: those that ship, overrides, files, and errors that name the key."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest

from bot_deploy.errors import InputError
from bot_deploy.train.recipe import Recipe, load_recipe, recipe_from_values, recipe_names, to_toml

SHIPPED = recipe_names()
PROBABILITIES = ("flip_probability", "erasing_probability", "label_smoothing")


def test_the_recipes_that_must_ship() -> None:
    assert {"strong", "quick"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_loads(name: str) -> None:
    loaded = load_recipe(name)
    assert isinstance(loaded, Recipe)
    assert all(milestone <= loaded.epochs for milestone in loaded.milestones)
    assert loaded.warmup_epochs < loaded.epochs


def test_strong_is_the_papers_last_row() -> None:
    strong = load_recipe("strong")
    assert strong == Recipe()  # the defaults are the released code's
    expected = {"arch": "resnet50", "height": 256, "width": 128, "epochs": 120, "lr": 3.5e-4}
    expected |= {"identities_per_batch": 16, "images_per_identity": 4, "erasing_probability": 0.5}
    expected |= {"weight_decay": 5e-4, "warmup_epochs": 10, "milestones": (40, 70), "gamma": 0.1}
    expected |= {"flip_probability": 0.5, "padding": 10, "label_smoothing": 0.1, "last_stride": 1, "neck": "bnneck"}
    expected |= {"center_weight": 5e-4, "center_lr": 0.5, "margin": 0.3, "protocol": "authors", "feature": "after"}
    assert {key: getattr(strong, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("epochs=20", "epochs", 20),
        ("lr=1e-3", "lr", 1e-3),
        ("lr=1", "lr", 1.0),  # an integer for a float
        ("erasing_probability=0", "erasing_probability", 0.0),
        ("eval_at_start=true", "eval_at_start", True),
        ("eval_at_start=false", "eval_at_start", False),
        ("arch=resnet18", "arch", "resnet18"),  # a bare word
        ('arch="resnet18"', "arch", "resnet18"),
        ("weights=models/a=b.pth", "weights", "models/a=b.pth"),
        (r"weights=C:\models\r50.pth", "weights", r"C:\models\r50.pth"),
        ("milestones=[3, 5]", "milestones", (3, 5)),
        ("milestones=[]", "milestones", ()),
        (" epochs = 7 ", "epochs", 7),
    ],
)
def test_overrides(override: str, key: str, value: object) -> None:
    result = getattr(load_recipe("strong", [override]), key)
    assert result == value
    assert type(result) is type(value)


def test_overrides_leave_the_rest_and_the_last_one_counts() -> None:
    loaded = load_recipe("quick", ["epochs=20", "identities_per_batch=8", "epochs=30"])
    assert loaded == dataclasses.replace(load_recipe("quick"), epochs=30, identities_per_batch=8)


@pytest.mark.parametrize(
    ("typo", "meant"), [("epoch", "epochs"), ("label_smoothin", "label_smoothing"), ("centre_lr", "center_lr")]
)
def test_an_unknown_key_suggests_the_nearest(typo: str, meant: str) -> None:
    with pytest.raises(InputError, match=rf"no key '{typo}' \(did you mean '{meant}'\?\).*last_stride"):
        load_recipe("strong", [f"{typo}=1"])


def test_an_unknown_key_far_from_all_lists_them() -> None:
    with pytest.raises(InputError, match=r"no key 'xyzzy'; its keys are arch, weights") as caught:
        load_recipe("strong", ["xyzzy=1"])
    assert all(field.name in str(caught.value) for field in dataclasses.fields(Recipe))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("epochs=many", "epochs must be a whole number such as 120, not 'many'"),
        ("epochs=1.5", "epochs must be a whole number"),
        ("epochs=true", "epochs must be a whole number"),
        ("lr=true", "lr must be a number"),
        ("lr=fast", "lr must be a number"),
        ("eval_at_start=1", "eval_at_start must be true or false"),
        ("arch=50", "arch must be a string"),
        ("milestones=40", r"milestones must be a list of whole numbers such as \[40, 70\]"),
        ("milestones=[40.5]", r"milestones must be a list of whole numbers such as \[40, 70\]"),
        ("milestones=[true]", r"milestones must be a list of whole numbers such as \[40, 70\]"),
        ('milestones=["a"]', r"milestones must be a list of whole numbers such as \[40, 70\]"),
        ("lr=", "lr must be a number"),
    ],
)
def test_a_value_of_another_type(override: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_recipe("strong", [override])


@pytest.mark.parametrize(
    "override",
    [
        *(f"{key}=0" for key in ("height", "width", "epochs", "lr", "last_stride")),
        *(f"{key}=0" for key in ("identities_per_batch", "images_per_identity")),
        *(f"{key}=-1" for key in ("height", "epochs", "lr", "seed", "weight_decay", "warmup_epochs", "gamma")),
        *(f"{key}=-1" for key in ("padding",)),
        *(f"{key}=-1" for key in ("margin", "center_weight", "center_lr", "eval_every")),
        *(f"{key}={value}" for key in PROBABILITIES for value in (-0.1, 1.1)),
        *(f"{key}={value}" for key in ("lr", "margin", "label_smoothing") for value in ("nan", "inf")),
        "protocol=mine",
        "precision=fp64",
        "feature=fx",
        "milestones=[70, 40]",
    ],
)
def test_a_value_out_of_range_names_its_key(override: str) -> None:
    with pytest.raises(InputError, match=rf"^{override.partition('=')[0]} "):
        load_recipe("strong", [override])


def test_a_batch_of_one_identity_is_refused() -> None:
    with pytest.raises(InputError, match="identities_per_batch must be 2 or above, not 1: the triplet loss compares"):
        load_recipe("strong", ["p=1", "k=4"])


def test_values_at_the_ends_of_their_ranges() -> None:
    ends = ["flip_probability=1", "erasing_probability=0", "label_smoothing=1", "padding=0", "warmup_epochs=0"]
    ends += ["center_weight=0", "margin=0", "seed=0"]
    assert load_recipe("strong", ends).label_smoothing == 1


OLD = {"p": 8, "k": 2, "flip": 0.1, "pad": 3, "erasing": 0.2, "smoothing": 0.3, "feature": "ft"}
OLD |= {"colour_jitter": 0.4, "greyscale_probability": 0.5, "unlabelled_batch": 6}
NEW = Recipe(
    identities_per_batch=8,
    images_per_identity=2,
    flip_probability=0.1,
    padding=3,
    erasing_probability=0.2,
    label_smoothing=0.3,
    color_jitter=0.4,
    grayscale_probability=0.5,
    unlabeled_batch=6,
    feature="before",
)


def test_older_names_of_keys_and_features_are_read() -> None:
    assert recipe_from_values(OLD) == NEW
    assert load_recipe("strong", [f"{key}={value}" for key, value in OLD.items()]) == NEW
    assert (Recipe(feature="fi"), Recipe(feature="ft").feature) == (Recipe(), "before")
    with pytest.raises(InputError, match="p is the older name of identities_per_batch; give one of them"):
        recipe_from_values({"p": 4, "identities_per_batch": 8})


def test_no_equals_sign() -> None:
    with pytest.raises(InputError, match=r"'epochs' is not of the form key=value"):
        load_recipe("strong", ["epochs"])


@pytest.mark.parametrize(
    ("name", "hint"), [("stong", "did you mean 'strong'"), ("zzz", "choose from"), ("", "choose from")]
)
def test_an_unknown_recipe_lists_those_that_ship(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint) as caught:
        load_recipe(name)
    assert all(known in str(caught.value) for known in SHIPPED)


@pytest.mark.parametrize(
    "given",
    [
        *(pytest.param(load_recipe(name), id=name) for name in SHIPPED),
        pytest.param(Recipe(weights="say \"hi\"\\and\\n\ttab 'single' é 人 \U0001f600 \x00\x1f\x7f"), id="strings"),
        pytest.param(Recipe(milestones=()), id="no milestones"),
        pytest.param(Recipe(milestones=(1, 2, 3), eval_at_start=True), id="tuple and bool"),
        pytest.param(Recipe(lr=1e-30, margin=1 / 3, weight_decay=0.1 + 0.2, center_weight=1e22), id="floats"),
    ],
)
def test_toml_round_trip(given: Recipe) -> None:
    values: dict[str, Any] = tomllib.loads(to_toml(given))
    assert set(values) == {field.name for field in dataclasses.fields(Recipe)}
    assert recipe_from_values(values) == given


def test_recipes_are_frozen() -> None:
    loaded = load_recipe("strong")
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.epochs = 3  # type: ignore[misc]
    assert hash(loaded) == hash(load_recipe("strong"))


def test_replacing_a_value_checks_it_too() -> None:
    with pytest.raises(InputError, match="epochs must be above 0"):
        dataclasses.replace(Recipe(), epochs=-3)
    with pytest.raises(InputError, match="lr must be above 0"):
        Recipe(lr=math.nan)


def test_a_recipe_file(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('arch = "resnet18"\nlr = 1\nmilestones = [3, 5]\n')
    assert load_recipe(file) == Recipe(arch="resnet18", lr=1.0, milestones=(3, 5))
    overridden = load_recipe(str(file), ["epochs=7"], weights="none")
    assert overridden == Recipe(arch="resnet18", lr=1.0, milestones=(3, 5), epochs=7, weights="none")


def test_config_toml_of_a_run_is_a_recipe(tmp_path: Path) -> None:
    given = dataclasses.replace(load_recipe("quick"), seed=3, weights="none")
    file = tmp_path / "config.toml"
    file.write_text(f'{to_toml(given)}\n[data]\nsource = "people"\n\n[versions]\ntorch = "2"\n')
    assert load_recipe(file) == given


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"epochs = 0\n", "epochs must be above 0, not 0"),
        (b"epochs = 'many'\n", "epochs must be a whole number such as 120, not 'many'"),
        (b"epoch = 3\n", r"a recipe has no key 'epoch' \(did you mean 'epochs'\?\)"),
        (b"data = 3\n", "a recipe has no key 'data'"),
        (b"[recipe]\nepochs = 3\n", "a recipe has no key 'recipe'"),
        (b"p = 1\nk = 1\n", "identities_per_batch must be 2 or above, not 1"),
        (b"epochs = \n", "not a readable TOML file .*line 1"),
        (b"\xff\xfe", "not a readable TOML file"),
    ],
)
def test_an_error_in_a_recipe_file_names_file_and_key(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_bytes(content)
    with pytest.raises(InputError, match=rf"my\.toml: {words}") as caught:
        load_recipe(tmp_path / "my.toml", ["epochs=5"])
    assert caught.value.parameter == "recipe"


def test_an_override_of_a_recipe_file_does_not_blame_the_file(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("epochs = 3\n")
    with pytest.raises(InputError, match=r"^epochs must be above 0, not -1$"):
        load_recipe(tmp_path / "my.toml", ["epochs=-1"])


def test_a_recipe_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.toml: cannot be read \(No such file"):
        load_recipe(tmp_path / "absent.toml")
