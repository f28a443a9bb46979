"""Odd names of files, folders and people: in galleries, on the terminal, and for enrolment."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from bot_deploy.demos.enrolment import check_name
from bot_deploy.gallery import parse_name

from .harness import Fell, bot, refuses, unsafe_characters

if TYPE_CHECKING:
    import random

    from .material import Material

PARTS = (
    "-",
    "--",
    "-rf",
    " ",
    "  a  ",
    ".",
    "..",
    "~",
    "$HOME",
    "`id`",
    "%s%n",
    "'",
    '"',
    ";",
    "|",
    "&",
    "*",
    "?",
    "\\",
    "\n",
    "\r",
    "\t",
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x7f",
    "\x85",
    "\u202egnp.exe",
    "\u2066",
    "\ufeff",
    "\u0301",
    "é",
    "☃",
    "😀",
    "\udc80",
    "\udcff",
    "con",
    "NUL",
    "aux.txt",
    "COM1",
    "=1+1",
    "+x",
    "@x",
    "-1",
    "0000",
    "x" * 100,
    "<b>",
    "&amp;",
    "{{x}}",
    "milvus:",
    "file://",
    "0001_c1s1_000001_00",
    "nan",
    "None",
)


def odd_name(rng: random.Random) -> str:
    return "".join(rng.choice(PARTS) for _ in range(rng.choice((1, 1, 2, 3))))


def gallery(rng: random.Random, material: Material) -> bool:
    """Crops and folders with odd names are indexed and matched; what is printed is safe for a terminal."""
    folder = material.empty_scratch() / "crops"
    folder.mkdir()
    crops = sorted(material.crops.iterdir())
    made = 0
    for number in range(rng.randint(1, 4)):
        name, parent = odd_name(rng), odd_name(rng).replace("/", "_")
        place = folder / parent if rng.random() < 0.5 and parent not in {".", ".."} else folder
        try:
            place.mkdir(exist_ok=True)
            shutil.copy(crops[number], place / (name.replace("/", "_") + ".png"))
            made += 1
        except (OSError, ValueError):
            continue
    broken = rng.random() < 0.3
    if broken:
        (folder / "broken\x1b[31m.png").write_bytes(b"no picture")
    model = ("--model", material.model, "--device", "cpu", "--threads", 1)
    output = material.scratch / "out"
    code = bot("index", folder, "-o", material.scratch / "new.gallery", *model).code
    listed = [path for path in folder.rglob("*.png") if not any(p[0] == "." for p in path.relative_to(folder).parts)]
    match = bot("match", crops[0], folder, *model, "--csv", f"{output}.csv", "--html", f"{output}.html")
    as_json = bot("match", crops[0], folder, "--json", *model)
    if as_json.code == 0 and as_json.document()["gallery"]["images"] != len(listed) - broken:
        raise Fell(f"{as_json.document()['gallery']['images']} images of {len(listed) - broken}")
    return code != 0 or match.code != 0 or made == 0


def argument(rng: random.Random, material: Material) -> bool:
    """An odd name as an argument of a command."""
    name = odd_name(rng)
    query = min(material.crops.iterdir())
    model = ("--model", material.model)
    refused = True
    os.chdir(material.empty_scratch())
    for words in rng.sample(
        (
            ("match", query, name, *model),
            ("match", name, material.gallery, *model),
            ("index", name, "-o", "x.gallery"),
            ("match", query, material.gallery, "--model", name),
            ("eval", name, "--data", material.people),
            ("eval", material.model, "--data", name),
            ("embed", name, "--out", "x.npy", *model),
            ("index", material.crops, "-o", "x.gallery", "--metadata", name, *model),
            ("calibrate", name, "--data", name),
            ("export", name),
            ("import", name, "--out", "x.pt"),
            ("train", "--data", name),
            ("train", "--set", name),
            ("demo", "--source", name, "--headless", *model),
            ("doctor", name),
            (name,),
            ("match", f"--{name}"),
        ),
        4,
    ):
        refused &= bot(*words).code != 0
    return refused


def enrolment(rng: random.Random, material: Material) -> bool:
    """A name that is accepted for a person is the name of a folder, and read from it again."""
    name = odd_name(rng)
    if refuses(lambda: check_name(name) or True) is None:
        return True
    folder = material.empty_scratch() / name
    folder.mkdir()
    reserved = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}
    if folder.parent != material.scratch or parse_name(f"{name}/a.png").identity != name:
        raise Fell(f"{name!r} is read as another name")
    if unsafe_characters(name) or any("\ud800" <= letter <= "\udfff" for letter in name):
        raise Fell(f"{name!r} was accepted")
    if name.partition(".")[0].strip().lower() in reserved:
        raise Fell(f"{name!r} was accepted, which Windows refuses")
    return False


ATTACKS = {"gallery": gallery, "argument": argument, "enrolment": enrolment}
