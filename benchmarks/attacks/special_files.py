"""Pipes, devices, sockets, loops, sparse files and folders where a file is expected, in folders and as arguments."""

from __future__ import annotations

import os
import shutil
import socket
from typing import TYPE_CHECKING

from .harness import Fell, bot

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from .material import Material

KINDS = ("pipe", "link to pipe", "device", "endless device", "socket", "loop", "loop of folders", "sparse", "folder",
         "broken link", "empty", "no permission")  # fmt: skip
SPARSE_BYTES = 2 << 40


def make(kind: str, path: Path) -> Path:
    """Makes a special file at `path`."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to pipe":
        os.mkfifo(path.with_name(f"{path.name}.pipe"))
        path.symlink_to(f"{path.name}.pipe")
    elif kind in {"device", "endless device"}:
        path.symlink_to("/dev/null" if kind == "device" else "/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            before = os.open(".", os.O_RDONLY)
            os.chdir(path.parent)  # addresses of sockets are short
            listening.bind(path.name)
            os.fchdir(before)
            os.close(before)
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "loop of folders":
        path.mkdir()
        (path / "again").symlink_to("..")
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(SPARSE_BYTES)
    elif kind == "folder":
        path.mkdir()
    elif kind == "broken link":
        path.symlink_to("nothing")
    else:
        path.write_bytes(b"")
        path.chmod(0 if kind == "no permission" else 0o644)
    return path


def in_gallery(rng: random.Random, material: Material) -> bool:
    """A special file beside whole crops costs nothing but itself."""
    folder = material.empty_scratch() / "crops"
    shutil.copytree(material.crops, folder)
    for number in range(rng.randint(1, 3)):
        make(rng.choice(KINDS), folder / f"special{number}.{rng.choice(('jpg', 'png', 'tiff'))}")
    model = ("--model", material.model, "--device", "cpu", "--threads", 1)
    crops = len(list(material.crops.iterdir()))
    query = min(material.crops.iterdir())
    index = bot("index", folder, "-o", material.scratch / "new.gallery", "--json", *model)
    match = bot("match", query, folder, "--json", *model)
    for finished, images in ((index, "index"), (match, "match")):
        if finished.code:
            raise Fell(f"bot {images} stopped: {finished.stderr[-200:]!r}")
    if index.document()["images"] != crops or match.document()["gallery"]["images"] != crops:
        raise Fell("a crop is missing, or a special file was counted")
    if rng.random() < 0.3:
        embed = bot("embed", folder, "--out", material.scratch / "vectors.npy", *model)
        if embed.code:
            raise Fell(f"bot embed stopped: {embed.stderr[-200:]!r}")
    return False


def as_argument(rng: random.Random, material: Material) -> bool:
    """A special file where a command expects another one is refused at once."""
    scratch = material.empty_scratch()
    query, model = min(material.crops.iterdir()), ("--model", material.model, "--device", "cpu")
    kind = rng.choice(KINDS)
    words = {
        ".png": (("match", "X", material.gallery, *model), ("match", query, "X", *model)),
        ".onnx": (
            ("match", query, material.gallery, "--model", "X"),
            ("demo", "--source", material.crops, "--detector", "X", "--headless", *model),
            ("doctor", "X"),
        ),
        ".engine": (("match", query, material.gallery, "--model", "X"),),
        ".pt": (
            ("export", "X"),
            ("import", "X", "--from", "fast-reid", "--out", scratch / "n.pt"),
            ("eval", "X", "--data", material.people),
        ),
        ".csv": (
            ("index", material.crops, "-o", scratch / "x.gallery", "--metadata", "X", *model),
            ("eval", material.model, "--data", "X"),
        ),
        ".zip": (("eval", material.model, "--data", "X"),),
        ".toml": (("train", "--recipe", "X", "--data", material.people),),
        ".mp4": (("demo", "--source", "X", "--headless", *model),),
        ".safetensors": (("train", "--weights", "X", "--data", material.people, "--out", scratch / "run"),),
    }
    suffix = rng.choice(list(words))
    path = make(kind, scratch / f"special{suffix}")
    chosen = [path if word == "X" else word for word in rng.choice(words[suffix])]
    if bot(*chosen).code == 0 and not path.is_dir():
        raise Fell(f"bot {chosen[0]} took a {kind} for a {suffix}")
    return True


ATTACKS = {"in a gallery": in_gallery, "as an argument": as_argument}
