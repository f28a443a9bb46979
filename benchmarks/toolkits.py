r"""Imported networks against the toolkits' own code: random weights, embedded there and by the imported file.

python benchmarks/toolkits.py --torchreid-python ENV/bin/python --fastreid-python ENV/bin/python \\
        --boxmot-python ENV/bin/python --boxmot16-python ENV/bin/python [--network "torchreid osnet_x0_25"]

Each toolkit runs in an environment of its own, which this repository does not need. A toolkit that is not named is
left out. `boxmot16` is BoxMOT 16.0.11, the last one that was tried with CLIP-ReID.
"""

from __future__ import annotations

import runpy
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cv2
import numpy as np

from bot_deploy.artifacts import checkpoint
from bot_deploy.embedder import open_embedder
from bot_deploy.errors import InputError, RunError
from bot_deploy.export.importers.checkpoint import import_checkpoint
from bot_deploy.export.importers.inference_only import import_for_inference

if TYPE_CHECKING:
    from collections.abc import Sequence

CLIENT = Path(__file__).parent / "clients" / "toolkit_client.py"
TOOLKITS = ("torchreid", "fastreid", "boxmot", "boxmot16")


@dataclass(frozen=True)
class Comparison:
    """Embeddings of the same crops by a toolkit and by the file that was imported from it."""

    version: str  # of the toolkit
    cosines: np.ndarray  # [N], of the two embeddings of each crop, less the mean over the crops
    max_difference: float  # of two numbers of unit vectors


def network_names() -> list[str]:
    """The names of the client's networks; each begins with its toolkit."""
    return list(runpy.run_path(str(CLIENT))["NETWORKS"])


def run_toolkit(python: Path, networks: Sequence[str], folder: Path) -> None:
    """Runs `networks` with the interpreter `python` of their toolkit; each writes to a folder of its name in `folder`.

    Raises:
        RunError: the toolkit failed.
    """
    command = [python, "-W", "ignore", CLIENT, folder, *networks]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"{python}: {' '.join(done.stderr.split())[-500:]}")


def compare(network: str, folder: Path) -> Comparison:
    """Imports what `network` has saved in its folder in `folder`, and embeds its crops."""
    with np.load(folder / network / "answer.npz") as answer:
        crops, theirs, version = answer["crops"], answer["vectors"], str(answer["version"])
    feature = "after" if network.endswith("after") else None
    pictures = folder / network / "crops"  # for the parity of the import with PyTorch
    for number, crop in enumerate(crops):
        (pictures / f"person{number}").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(pictures / f"person{number}" / "crop.png"), np.ascontiguousarray(crop[..., ::-1]))
    model = import_weights(folder / network / "weights.pth", crops.shape[1:3], feature, pictures)
    ours = open_embedder(model).embed(list(crops))
    # A random network gives all crops nearly the same vector, so only what is left without that says something.
    mean = theirs.mean(0)
    left, right = ours - mean, theirs - mean
    cosines = (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    return Comparison(version, cosines, float(np.abs(ours - theirs).max()))


def import_weights(weights: Path, size: tuple[int, int], feature: str | None, data: Path) -> Path:
    """The checkpoint or model file that `bot import` makes of `weights`, beside them."""
    try:
        imported = import_checkpoint(weights, size=size, feature=feature)
    except InputError as error:
        if "name an .onnx file" not in str(error):
            raise
        model = weights.with_suffix(".onnx")
        return import_for_inference(weights, model, size=size, feature=feature, data=data).model.path
    path = weights.with_suffix(".pt")
    checkpoint.save(imported.checkpoint, path)
    return path


@click.command()
@click.option("--network", "networks", multiple=True, help="Only this one; several times for several.")
@click.option("--torchreid-python", type=click.Path(exists=True, path_type=Path))
@click.option("--fastreid-python", type=click.Path(exists=True, path_type=Path))
@click.option("--boxmot-python", type=click.Path(exists=True, path_type=Path))
@click.option("--boxmot16-python", type=click.Path(exists=True, path_type=Path))
def main(networks: tuple[str, ...], **pythons: Path | None) -> None:
    """Prints the numbers of the table in docs/import.md."""
    print("| network | version | smallest cosine | largest difference |")
    print("| --- | --- | --- | --- |")
    names = networks or network_names()
    for toolkit in TOOLKITS:
        python, own = pythons[f"{toolkit}_python"], [name for name in names if name.split()[0] == toolkit]
        if python is None or not own:
            continue
        with tempfile.TemporaryDirectory() as folder:
            run_toolkit(python, own, Path(folder))
            for network in own:
                found = compare(network, Path(folder))
                numbers = f"{found.cosines.min():.7f} | {found.max_difference:.1e}"
                print(f"| {network} | {found.version} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
