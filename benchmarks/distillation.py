"""What helps on other people's cameras: teacher, unlabelled crops, instance norm, backbone, augmentation; one seed.

    python benchmarks/distillation.py --data Market-1501.zip --other VIPeR.zip --teacher retail.xml \
        --unlabelled street.zip --weights mobilenet_v2=FILE --weights timm:tf_efficientnet_lite0=FILE --out DIR

Each variant is trained, exported, and scored from its exported files. A stopped run continues where it was when it is
started again with the same options. DIR/table.md has a row for each finished variant. The milliseconds are measured in
turns, when all variants are trained.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from bot_deploy import open_embedder
from bot_deploy.bench import time_in_turns
from bot_deploy.datasets import open_dataset
from bot_deploy.evaluation.protocol import evaluate_dataset
from bot_deploy.export.exported_model import ONNX_NAMES
from bot_deploy.export.pipeline import export
from bot_deploy.files import write_atomically
from bot_deploy.train import loop
from bot_deploy.train.ablation import scale_schedule
from bot_deploy.train.recipe import load_recipe

if TYPE_CHECKING:
    from bot_deploy.datasets import Dataset
    from bot_deploy.train.recipe import Recipe

logger = logging.getLogger(__name__)

MOBILENET, NORMED, EFFICIENTNET = "mobilenet_v2", "mobilenet_v2_in", "timm:tf_efficientnet_lite0"
EFFICIENTNET_NORMED = f"{EFFICIENTNET}+in"
BATCHES = (1, 32)


@dataclass(frozen=True)
class Variant:
    """A row of the table: a backbone, with or without a teacher and its unlabelled crops, and keys of the recipe."""

    arch: str
    teacher: bool = False
    unlabelled: bool = False
    changes: str = ""  # KEY=VALUE of the recipe, with spaces between

    @property
    def name(self) -> str:
        parts = [self.arch.removeprefix("timm:"), *["teacher"] * self.teacher, *["unlabelled"] * self.unlabelled]
        return "-".join([*parts, *self.changes.split()])


VARIANTS = (
    Variant(MOBILENET),
    Variant(MOBILENET, teacher=True),
    Variant(MOBILENET, teacher=True, unlabelled=True),
    Variant(NORMED),
    Variant(NORMED, teacher=True, unlabelled=True),
    Variant(EFFICIENTNET),
    Variant(EFFICIENTNET, teacher=True, unlabelled=True),
    Variant(EFFICIENTNET_NORMED, teacher=True, unlabelled=True),
    Variant(MOBILENET, changes="color_jitter=0"),
    Variant(MOBILENET, changes="grayscale_probability=0"),
    Variant(MOBILENET, changes="jpeg_probability=0"),
    Variant(MOBILENET, changes="color_jitter=0 grayscale_probability=0 jpeg_probability=0"),
    Variant(MOBILENET, changes="erasing_probability=0.5"),
)


@dataclass
class Row:
    """The figures of a variant."""

    variant: Variant
    scores: dict[str, float]  # percent
    int8_passes: bool  # its parity with PyTorch
    milliseconds: dict[str, float] = field(default_factory=dict)  # of model.onnx, for an image; by batch size

    def cells(self) -> list[str]:
        marks = ["yes" if on else "" for on in (self.variant.teacher, self.variant.unlabelled)]
        figures = [f"{value:.2f}" for value in self.scores.values()]
        times = [f"{value:.1f}" for value in self.milliseconds.values()]
        passes = "yes" if self.int8_passes else "no"
        return [self.variant.arch, *marks, self.variant.changes, *figures, passes, *times]


@click.command()
@click.option("--data", required=True, help="Data set to train on, with query and gallery to score on.")
@click.option("--other", required=True, help="Data set that nothing is trained on, to score on.")
@click.option("--teacher", required=True, help="Model that the networks follow.")
@click.option("--unlabelled", multiple=True, help="Crops of unknown people; repeatable.")
@click.option("--weights", "files", multiple=True, metavar="ARCH=FILE", help="Initial weights; repeatable.")
@click.option("--recipe", default="everywhere")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE")
@click.option("--epochs", type=int, help="Number of epochs; the schedule is scaled.")
@click.option("--rows", help="Numbers of the variants to train, such as 1,3; default: all.")
@click.option("--seconds", default=10.0, help="Seconds of timing for each file and batch size.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(
    data: str,
    other: str,
    teacher: str,
    unlabelled: tuple[str, ...],
    files: tuple[str, ...],
    recipe: str,
    overrides: tuple[str, ...],
    epochs: int | None,
    rows: str | None,
    seconds: float,
    out: Path,
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    weights = dict(file.split("=", 1) for file in files)
    weights.setdefault(NORMED, weights.get(MOBILENET, "none"))
    weights.setdefault(EFFICIENTNET_NORMED, weights.get(EFFICIENTNET, "none"))
    dataset, other_dataset = open_dataset(data), open_dataset(other)
    chosen = [VARIANTS[int(number) - 1] for number in rows.split(",")] if rows else VARIANTS
    finished: list[Row] = []
    for variant in chosen:
        settings = load_recipe(recipe, (*overrides, *variant.changes.split()))
        settings = scale_schedule(settings, epochs) if epochs else settings
        changed = dataclasses.replace(settings, arch=variant.arch, weights=weights.get(variant.arch, "none"))
        folder = out / variant.name
        train(variant, changed, dataset, folder, teacher, unlabelled)
        scores = score(folder, dataset, other_dataset)
        finished.append(Row(variant, scores, (folder / ONNX_NAMES["int8"]).exists()))
        write_table(finished, settings, out)
    for row, milliseconds in zip(finished, measure([out / row.variant.name for row in finished], seconds), strict=True):
        row.milliseconds = milliseconds
    write_table(finished, settings, out)


def train(
    variant: Variant, recipe: Recipe, dataset: Dataset, folder: Path, teacher: str, unlabelled: tuple[str, ...]
) -> None:
    """Trains and exports `variant` in `folder`, as far as that is not done."""
    logger.info(f"--- {variant.name}")
    loop.train(
        recipe,
        dataclasses.replace(dataset, query=(), gallery=()),  # scored below, from the exported files
        folder,
        resume=True,
        teacher=teacher if variant.teacher else None,
        unlabelled=unlabelled if variant.unlabelled else (),
    )
    if not (folder / ONNX_NAMES["fp32"]).exists() or not list(folder.glob(f"{ONNX_NAMES['int8']}*")):
        export(folder, precisions=("fp32", "int8"))


def score(folder: Path, dataset: Dataset, other: Dataset) -> dict[str, float]:
    """The scores of the exported files, kept in scores.json; an INT8 file that failed its parity is scored as well."""
    kept = folder / "scores.json"
    if kept.exists():
        scores: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))
        return scores
    float32 = open_embedder(folder / ONNX_NAMES["fp32"], "cpu")
    own, elsewhere = evaluate_dataset(float32, dataset), evaluate_dataset(float32, other)
    with tempfile.TemporaryDirectory() as place:
        file = next(folder.glob(f"{ONNX_NAMES['int8']}*"))
        copy = Path(shutil.copy(file, Path(place) / ONNX_NAMES["int8"]))
        int8 = evaluate_dataset(open_embedder(copy, "cpu"), dataset)
    scores = {
        "rank-1": own.rank1,
        "mAP": own.mAP,
        "rank-1 elsewhere": elsewhere.rank1,
        "mAP elsewhere": elsewhere.mAP,
        "INT8 loss of rank-1": own.rank1 - int8.rank1,
        "INT8 loss of mAP": own.mAP - int8.mAP,
    }
    write_atomically(kept, lambda path: path.write_text(json.dumps(scores), encoding="utf-8"))
    return scores


def measure(folders: list[Path], seconds: float) -> list[dict[str, float]]:
    """The median milliseconds of each model.onnx for a batch, in turns."""
    embedders = [open_embedder(folder / ONNX_NAMES["fp32"], "cpu") for folder in folders]
    milliseconds: list[dict[str, float]] = [{} for _ in folders]
    for batch in BATCHES:
        images = np.random.default_rng(0).integers(0, 256, (batch, *embedders[0].contract.size, 3), dtype=np.uint8)
        calls = [partial(embedder.run, images) for embedder in embedders]
        for figures, durations in zip(milliseconds, time_in_turns(calls, seconds), strict=True):
            figures[f"ms at batch {batch}"] = float(np.median(durations)) * 1000
    return milliseconds


def write_table(rows: list[Row], recipe: Recipe, out: Path) -> None:
    heads = [
        "backbone",
        "teacher",
        "unlabelled crops",
        "changed",
        *rows[0].scores,
        "INT8 passes parity",
        *rows[0].milliseconds,
    ]
    small = f"{recipe.small_epochs} of them on crops of half the size"
    lines = [
        f"{recipe.height}x{recipe.width}, {recipe.epochs} epochs ({small}), seed {recipe.seed}.",
        "",
        f"| {' | '.join(heads)} |",
        f"|{' --- |' * len(heads)}",
        *(f"| {' | '.join(row.cells())} |" for row in rows),
    ]
    write_atomically(out / "table.md", lambda path: path.write_text("\n".join(lines) + "\n", encoding="utf-8"))
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
