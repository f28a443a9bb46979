"""Odd numbers in every numeric option of every command, and in the keys of a recipe."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

import click

from .harness import Fell, bot

if TYPE_CHECKING:
    import random

    from .material import Material

NEVER = ("nan", "-nan", "inf", "-inf", "1e999", "x", "", " ", "0x10", "1,5", "1e", "--", "9" * 400)  # no number at all
ODD = (
    "-1",
    "0",
    "-0",
    "1e-320",
    "1e308",
    "-1e308",
    "99999999999999999999",
    "2147483648",
    "-2147483649",
    "0.5",
    "1_0",
    "٣",
)
RECIPE = [
    "epochs",
    "batch",
    "lr",
    "weight_decay",
    "margin",
    "seed",
    "height",
    "width",
    "identities_per_batch",
    "last_stride",
    "center_weight",
    "warmup",
]
# What a command needs besides the option, so that a number that is accepted ends soon; a missing file ends the others.
NEEDED = {
    "match": ("{query}", "{gallery}", "--model", "{model}"),
    "index": ("{crops}", "-o", "{scratch}/x.gallery", "--model", "{model}"),
    "embed": ("{crops}", "--out", "{scratch}/x.npy", "--model", "{model}"),
    "eval": ("{model}", "--data", "{people}"),
    "calibrate": ("{model}", "--data", "{scratch}/missing"),
    "demo": (
        "--source",
        "{crops}",
        "--headless",
        "--model",
        "{model}",
        "--detector",
        "{detector}",
        "--max-frames",
        "2",
    ),
    "export": ("{scratch}/missing",),
    "doctor": ("{scratch}/missing.onnx",),
    "bench": ("{scratch}/missing.onnx",),
    "verify": ("{scratch}/missing.onnx", "{model}"),
    "ablate": ("--data", "{scratch}/missing"),
}


def numeric_options() -> list[tuple[str, str]]:
    """Every (command, option) with a number."""
    from bot_deploy.cli import COMMANDS

    found = []
    for name, (place, _) in COMMANDS.items():
        module, _, function = place.partition(":")
        command: click.Command = getattr(import_module(f"bot_deploy.commands.{module}"), function)
        for parameter in command.params:
            kind = parameter.type
            if isinstance(kind, click.types.IntParamType | click.types.FloatParamType) and name in NEEDED:
                found.append((name, parameter.opts[0]))
    return found


def option(rng: random.Random, material: Material) -> bool:
    """An odd number for an option."""
    command, name = rng.choice(numeric_options())
    value = rng.choice((*NEVER, *ODD))
    names = {"query": min(material.crops.iterdir()), "gallery": material.gallery, "model": material.model}
    names |= {"crops": material.crops, "people": material.people, "detector": material.detector}
    names["scratch"] = material.empty_scratch()
    os.chdir(names["scratch"])
    words = [word.format(**names) for word in NEEDED[command]]
    finished = bot(command, *words, f"{name}={value}")
    if value in NEVER and finished.code != 2:
        raise Fell(f"bot {command} {name}={value}: exit code {finished.code}")
    return finished.code != 0


def recipe(rng: random.Random, material: Material) -> bool:
    """An odd number for a key of a recipe; a missing data set ends what is accepted."""
    key, value = rng.choice(RECIPE), rng.choice((*NEVER, *ODD))
    finished = bot("train", "--set", f"{key}={value}", "--data", material.empty_scratch() / "missing")
    if finished.code != 2:
        raise Fell(f"--set {key}={value}: exit code {finished.code}")
    return True


ATTACKS = {"option": option, "recipe": recipe}
