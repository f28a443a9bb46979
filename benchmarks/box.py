"""Makes the built-in model, bot_deploy/models/box.onnx, from a checkpoint.

    python benchmarks/box.py RUN/model.pt --data Market-1501-v15.09.15.zip --compatible-with OLD/box.onnx

Its weights are rounded to FP16, its embeddings compared with PyTorch's, and its thresholds calibrated on the training
identities of --data. The script prints what the rounding changes. The contract names an earlier file whose galleries
the new one can search; `bot eval NEW --gallery-model OLD` measures whether it can.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path

import click

from bot_deploy import console
from bot_deploy.artifacts import checkpoint, read_contract, write_contract
from bot_deploy.backends.torch import runner
from bot_deploy.datasets import open_dataset
from bot_deploy.embedder import Embedder, open_embedder
from bot_deploy.export.compact import round_weights, write_compact
from bot_deploy.export.parity import TOLERANCES, compare_embeddings, sample_crops
from bot_deploy.matching.calibrate import calibration_from_scores, score_crop_pairs
from bot_deploy.model import InferenceGraph
from bot_deploy.models import box

MAX_BYTES = 9_000_000


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.option("--data", required=True, help="Market-1501: the training identities calibrate the model.")
@click.option("--device", default="auto", help="Device that embeds the crops for the calibration.")
@click.option("--out", type=click.Path(path_type=Path), default=box.PATH, show_default=True, help="File to write.")
@click.option("--compatible-with", type=click.Path(path_type=Path, exists=True), help="Earlier built-in model.")
def main(source: Path, data: str, device: str, out: Path, compatible_with: Path | None) -> None:
    """Write the built-in model from the checkpoint SOURCE."""
    console.show_library_output()
    dataset = open_dataset(data)
    saved = checkpoint.load(source)
    contract = dataclasses.replace(saved.contract, terms=box.TERMS)
    if compatible_with:
        contract = dataclasses.replace(contract, compatible_with=read_contract(compatible_with).searchable_spaces)
    rounded = round_weights(dataclasses.replace(saved, contract=contract))
    crops = sample_crops(dataset, contract.size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / box.PATH.name
        write_compact(rounded, path)
        candidate = open_embedder(path)
        for name, reference, tolerance in (
            ("PyTorch with the rounded weights", rounded, TOLERANCES["fp32"]),
            ("PyTorch with the weights of the checkpoint", saved, TOLERANCES["fp16"]),
        ):
            run = runner(InferenceGraph(reference.build(), contract), "cpu")
            parity = compare_embeddings(Embedder(contract, "PyTorch", run), candidate, crops, tolerance)
            print(f"against {name}:\n{parity.table()}")
            if not parity.passed:
                sys.exit("not written: its embeddings differ by too much")
        if path.stat().st_size > MAX_BYTES:
            sys.exit(f"not written: {path.stat().st_size} bytes, more than {MAX_BYTES}")
        name = f"training identities of {Path(data).name}"  # no path of this machine
        calibration = calibration_from_scores(score_crop_pairs(open_embedder(path, device), dataset.train, name), name)
        write_contract(path, dataclasses.replace(rounded.contract, calibration=calibration))
        out.write_bytes(path.read_bytes())
    print(f"calibration: {dataclasses.replace(calibration, curve=())}")
    print(f"wrote {out}: {out.stat().st_size} bytes, {rounded.contract.embedding_space}")


if __name__ == "__main__":
    main()
