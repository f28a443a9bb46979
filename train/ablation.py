"""The paper's tables, run: which trick brings what, with the paper's figure beside ours."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import logging
import os
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from bot_deploy.artifacts import checkpoint
from bot_deploy.datasets import MERGE_SEPARATOR, crops_fingerprint
from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError
from bot_deploy.evaluation.protocol import COSINE, evaluate_dataset
from bot_deploy.files import write_atomically
from bot_deploy.model import InferenceGraph
from bot_deploy.train import loop

from . import run_files
from .distributed import join
from .recipe import to_toml

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bot_deploy.datasets import Dataset

    from .recipe import Recipe

logger = logging.getLogger(__name__)

Figures = tuple[float, float]  # rank-1 and mAP, percent


@dataclass(frozen=True)
class Rung:
    """One row of a table: what is laid over the recipe, and the paper's Market-1501 figures (ResNet-50, 120 epochs)."""

    name: str
    changes: dict[str, Any]
    paper: Figures


# Table 1, first row, as the released code has it (section 2).
BASELINE: dict[str, Any] = {
    "warmup_epochs": 0,
    "erasing": 0.0,
    "smoothing": 0.0,
    "last_stride": 2,
    "neck": "none",
    "feature": "ft",
    "metric": "euclidean",
    "center_weight": 0.0,
}
# row -> the keys that take the recipe's own value from here on
TRICKS = {
    "+warmup": ("warmup_epochs",),
    "+REA": ("erasing",),
    "+LS": ("smoothing",),
    "+stride=1": ("last_stride",),
    "+BNNeck": ("neck", "feature", "metric"),
    "+center loss": ("center_weight",),
}
TABLE_1 = ((87.7, 74.0), (88.7, 75.2), (91.3, 79.3), (91.4, 80.3), (92.0, 81.7), (94.1, 85.7), (94.5, 85.9))
TABLE_3 = ((24.4, 12.9), (26.3, 14.1), (21.5, 10.2), (23.2, 11.3), (23.1, 11.8), (26.7, 15.2), (27.5, 15.0))
TABLE_3_WITHOUT_REA = (41.4, 25.7)  # both Market-1501 to DukeMTMC-reID
TABLE_2 = {("ft", "euclidean"): (94.2, 85.5), ("ft", "cosine"): (94.2, 85.7)} | {
    ("fi", "euclidean"): (93.8, 83.7),
    ("fi", "cosine"): (94.1, 85.7),
}
TABLE_5 = {(8, 3): (92.6, 79.2), (8, 4): (92.9, 80.0), (8, 6): (93.5, 81.6), (8, 8): (93.9, 82.0)} | {
    (16, 3): (93.8, 83.1),
    (16, 4): (93.8, 83.7),
    (16, 6): (94.0, 82.8),
    (16, 8): (93.1, 81.6),
    (32, 3): (94.5, 84.1),
    (32, 4): (93.2, 82.8),
}
TABLE_6 = {(256, 128): (93.8, 83.7), (224, 224): (94.2, 83.3), (384, 128): (94.0, 82.7), (384, 192): (93.8, 83.1)}
TABLES = (1, 2, 3, 5, 6)
WITHOUT_CENTER = {"center_weight": 0.0}


def rungs(table: int, recipe: Recipe) -> list[Rung]:
    """The rows of the paper's `table`; `recipe` has every trick on, and says how strong each is."""
    if table == 1:
        return _ladder(recipe, TABLE_1)
    if table == 2:  # noqa: PLR2004 - the paper's number
        without = Rung(
            "f (w/o BNNeck)", {**WITHOUT_CENTER, "neck": "none", "feature": "ft", "metric": "euclidean"}, TABLE_1[4]
        )
        measured = [
            Rung(f"{feature}, {metric}", {**WITHOUT_CENTER, "feature": feature, "metric": metric}, paper)
            for (feature, metric), paper in TABLE_2.items()
        ]
        return [without, *measured]
    if table == 3:  # noqa: PLR2004
        return [*_ladder(recipe, TABLE_3), Rung("-REA", {"erasing": 0.0}, TABLE_3_WITHOUT_REA)]
    scored = {**WITHOUT_CENTER, "metric": "euclidean"}  # inferred from equal numbers across the paper's tables
    if table == 5:  # noqa: PLR2004
        return [Rung(f"{p} x {k}", {**scored, "p": p, "k": k}, paper) for (p, k), paper in TABLE_5.items()]
    if table == 6:  # noqa: PLR2004
        # The paper's sizes, as multiples of the recipe's own.
        return [
            Rung(f"{h} x {w}", {**scored, "height": h * recipe.height // 256, "width": w * recipe.width // 128}, paper)
            for (h, w), paper in TABLE_6.items()
        ]
    raise InputError(f"no table {table}; choose from {', '.join(map(str, TABLES))}")


def _ladder(recipe: Recipe, paper: Sequence[Figures]) -> list[Rung]:
    changes, rows = dict(BASELINE), [Rung("Baseline-S", dict(BASELINE), paper[0])]
    for (name, keys), figures in zip(TRICKS.items(), paper[1:], strict=True):
        for key in keys:
            changes[key] = getattr(recipe, key)
        rows.append(Rung(name, dict(changes), figures))
    return rows


def scaled(recipe: Recipe, epochs: int) -> Recipe:
    """`recipe` in `epochs` epochs, warmup and milestones moved in proportion."""
    factor = epochs / recipe.epochs
    return dataclasses.replace(
        recipe,
        epochs=epochs,
        warmup_epochs=round(recipe.warmup_epochs * factor),
        milestones=tuple(max(1, round(milestone * factor)) for milestone in recipe.milestones),
    )


def run(recipe: Recipe, table: Sequence[Rung], seeds: int, dataset: Dataset, test: Dataset, out: Path) -> list[Row]:
    """Trains what `table` needs on `dataset`, scores each row on `test`, and writes the table after every row.

    Rows that differ only in how they are scored share a training; finished trainings and scores are kept,
    so that a stopped ablation goes on where it was.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("an ablation runs in one process; start others with other --steps and the same --out")
    rows: list[Row] = []
    for rung in table:
        figures = []
        for seed in range(recipe.seed, recipe.seed + seeds):
            chosen = dataclasses.replace(recipe, **rung.changes, seed=seed)
            logger.info(f"{rung.name}, seed {seed}")
            figures.append(_figures(chosen, dataset, test, out))
        rows.append(Row(rung, tuple(figures)))
        logger.info(str(rows[-1]))
        write(rows, recipe, dataset.name, test.name, out)
    return rows


def _figures(recipe: Recipe, dataset: Dataset, test: Dataset, out: Path) -> Figures:
    # Feature and metric only matter when a finished network is scored.
    trained = dataclasses.replace(recipe, feature="fi", metric=COSINE, eval_every=0, eval_at_start=False)
    task = f"{to_toml(trained)}\n{crops_fingerprint(dataset.train)}"
    folder = out / "runs" / hashlib.sha256(task.encode()).hexdigest()[:12]
    known = folder / f"{recipe.feature}-{recipe.metric}-{crops_fingerprint([*test.query, *test.gallery])}.txt"
    if known.exists():
        rank1, mean_ap = map(float, known.read_text(encoding="utf-8").split())
        return rank1, mean_ap
    # Scored below, not by the loop.
    loop.train(trained, dataclasses.replace(dataset, query=(), gallery=()), folder, resume=True)
    rank1, mean_ap = score(folder / run_files.MODEL, recipe.feature, recipe.metric, test)
    run_files.write_text(known, f"{rank1} {mean_ap}\n")
    return rank1, mean_ap


def score(path: Path, feature: str, metric: str, test: Dataset) -> Figures:
    """Rank-1 and mAP in percent of the checkpoint at `path` by this feature and metric."""
    from bot_deploy.backends.torch import runner

    saved = checkpoint.load(path)
    contract = dataclasses.replace(saved.contract, feature=feature)
    graph = InferenceGraph(saved.build(), contract, unit=metric == COSINE)
    scores = evaluate_dataset(Embedder(contract, "PyTorch", runner(graph, join().device)), test, metric)
    return scores.rank1, scores.mAP


@dataclass(frozen=True)
class Row:
    """A rung with what was measured, one pair of figures for each seed."""

    rung: Rung
    figures: tuple[Figures, ...]

    @property
    def mean(self) -> Figures:
        rank1, mean_ap = np.mean(self.figures, axis=0)
        return float(rank1), float(mean_ap)

    def __str__(self) -> str:
        return f"{self.rung.name}: rank-1 {self.mean[0]:.2f}  mAP {self.mean[1]:.2f}"


def write(rows: Sequence[Row], recipe: Recipe, data: str, test: str, out: Path) -> None:
    """table.md, table.csv and table.png in `out`."""
    how = (
        f"{recipe.arch} {recipe.height}x{recipe.width}, {recipe.epochs} epochs, weights {_name(recipe.weights)}, "
        f"trained on {_name(data)}, scored on {_name(test)}, {len(rows[0].figures)} seed(s) from {recipe.seed}. "
        "The paper: ResNet-50 256x128, 120 epochs."
    )
    lines = [
        how,
        "",
        "| model | rank-1 | mAP | change | paper rank-1 | paper mAP | paper's change |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["model", "rank1", "mAP", "rank1_std", "mAP_std", "paper_rank1", "paper_mAP"])
    before: Row | None = None
    for row in rows:
        ours, paper = row.mean, row.rung.paper
        change = f"{ours[0] - before.mean[0]:+.1f} / {ours[1] - before.mean[1]:+.1f}" if before else ""
        theirs = f"{paper[0] - before.rung.paper[0]:+.1f} / {paper[1] - before.rung.paper[1]:+.1f}" if before else ""
        lines.append(
            f"| {row.rung.name} | {ours[0]:.2f} | {ours[1]:.2f} | {change} | {paper[0]} | {paper[1]} | {theirs} |"
        )
        spread = np.std(row.figures, axis=0)
        table.writerow([row.rung.name, *(f"{value:.4f}" for value in (*ours, *spread)), *paper])
        before = row
    run_files.write_text(out / "table.md", "\n".join(lines) + "\n")
    run_files.write_text(out / "table.csv", text.getvalue())
    write_atomically(out / "table.png", lambda path: _plot(rows, path))


def _name(sources: str) -> str:
    """Files by their names, without the folders of the machine they lie on."""
    return MERGE_SEPARATOR.join(PurePath(source).name for source in sources.split(MERGE_SEPARATOR))


def _plot(rows: Sequence[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, column, title in zip(figure.subplots(1, 2), (0, 1), ("rank-1, %", "mAP, %"), strict=True):
        places = np.arange(len(rows))
        axes.plot(places, [row.rung.paper[column] for row in rows], "o--", color="grey", label="paper")
        axes.plot(places, [row.mean[column] for row in rows], "o-", label="ours")
        axes.set_xticks(places, [row.rung.name for row in rows], rotation=30, ha="right")
        axes.set_title(title)
        axes.legend()
    figure.savefig(path, format="png", dpi=100)
