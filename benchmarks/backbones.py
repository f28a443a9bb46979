"""What each backbone costs and what INT8 does to it: milliseconds in turns, size of the files, agreement with PyTorch.

    python benchmarks/backbones.py --data CROPS --weights mobilenet_v2=FILE [ARCH...]

The first backbone is the baseline of the ratios. Without a file of weights, a backbone has random ones. The batch-norms
and the neck take their statistics from the crops, as in training; those of ImageNet do not fit after instance norm.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch
from torch import nn

from bot_deploy import open_embedder
from bot_deploy.artifacts import checkpoint
from bot_deploy.artifacts.checkpoint import contract_of
from bot_deploy.bench import time_in_turns
from bot_deploy.datasets import open_dataset
from bot_deploy.export.parity import sample_crops
from bot_deploy.export.steps import export_onnx, prepare_export
from bot_deploy.model import ReID
from bot_deploy.train import weights as initial_weights
from bot_deploy.train.transforms import normalize_pixels

BATCHES = (1, 32)
CROPS = 64


@click.command()
@click.argument("archs", nargs=-1)
@click.option("--data", required=True, help="Data set whose crops INT8 is calibrated and compared on.")
@click.option("--weights", "files", multiple=True, metavar="ARCH=FILE", help="Initial weights; repeatable.")
@click.option("--height", default=256)
@click.option("--width", default=128)
@click.option("--precisions", default="fp32,fp16,int8")
@click.option("--seconds", default=10.0, help="Seconds of timing for each file and batch size.")
@click.option(
    "--cpu-time", is_flag=True, help="CPU time of one thread instead of the clock: on a machine with other load."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder to keep the exported files in.")
def main(
    archs: tuple[str, ...],
    data: str,
    files: tuple[str, ...],
    height: int,
    width: int,
    precisions: str,
    seconds: float,
    cpu_time: bool,
    out: Path | None,
) -> None:
    archs = archs or ("mobilenet_v2", "mobilenet_v2_in", "timm:tf_efficientnet_lite0")
    weights = dict(file.split("=", 1) for file in files)
    with TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        print("| backbone | precision | MiB | layers in float32 | min cosine | mean cosine | top-1 agreement |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        models: dict[str, Path] = {}
        for arch in archs:
            models |= export(arch, weights.get(arch), data, (height, width), precisions.split(","), folder)
        crops = sample_crops(open_dataset(data), (height, width), max(BATCHES))
        crops = np.concatenate([crops] * max(BATCHES))[: max(BATCHES)]
        embedders = {name: open_embedder(path, "cpu", threads=int(cpu_time)) for name, path in models.items()}
        print("\n| model | " + " | ".join(f"batch {batch}: median ms, fastest, ratio" for batch in BATCHES) + " |")
        print("| --- |" + " --- |" * len(BATCHES))
        cells: dict[str, list[str]] = {name: [] for name in embedders}
        for batch in BATCHES:
            calls = [partial(embedder.run, crops[:batch]) for embedder in embedders.values()]
            clock = time.process_time if cpu_time else time.perf_counter
            timed = dict(zip(embedders, time_in_turns(calls, seconds, clock), strict=True))
            for name, durations in timed.items():
                baseline = timed[f"{archs[0]} {name.rpartition(' ')[2]}"]
                median, fastest = np.median(durations) * 1000, min(durations) * 1000
                ratio = np.median(durations) / np.median(baseline)
                cells[name].append(f"{median:.1f}, {fastest:.1f}, {ratio:.2f}")
        for name, texts in cells.items():
            print(f"| {name} | {' | '.join(texts)} |")


def export(
    arch: str, weights: str | None, data: str, size: tuple[int, int], precisions: list[str], folder: Path
) -> dict[str, Path]:
    """Exports `arch` in `precisions` and prints a row for each; returns name -> file."""
    dataset = open_dataset(data)
    torch.manual_seed(0)
    model = ReID(arch, 2, size=size)
    initial_weights.initialize(model, weights or "none")
    set_statistics(model, torch.from_numpy(sample_crops(dataset, size, CROPS)))
    out = folder / arch.replace(":", "-")
    out.mkdir(parents=True, exist_ok=True)
    saved = checkpoint.Checkpoint(contract_of(model, *size), model.state_dict(), 2, 1, "bnneck", dataset.sources)
    checkpoint.save(out / "model.pt", saved)
    context = prepare_export(out / "model.pt", out, dataset)
    exported = []
    for precision in precisions:
        exported.append(export_onnx(context, precision, exported))
        parity, path, rejected = exported[-1].parity, exported[-1].path, exported[-1].rejected
        assert parity is not None
        print(
            f"| {arch} | {precision}{', rejected' if rejected else ''} | {path.stat().st_size / 2**20:.1f} "
            f"| {len(exported[-1].float32_layers)} | {parity.min_cosine:.4f} | {parity.mean_cosine:.4f} "
            f"| {100 * parity.top1_agreement:.1f} % |",
            flush=True,
        )
    return {f"{arch} {model.precision}": model.path for model in exported if not model.rejected}


def set_statistics(model: ReID, crops: torch.Tensor) -> None:
    """Sets the statistics of all batch-norms of `model` to those of `crops` uint8 [N, H, W, 3]."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        for start in range(0, len(crops), 32):
            model(normalize_pixels(crops[start : start + 32], model.mean, model.std))
    model.eval()


if __name__ == "__main__":
    main()
