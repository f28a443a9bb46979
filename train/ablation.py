"""Ablations: runs the tables of the paper, and writes our rank-1 and mAP beside the paper's."""

from __future__ import annotations

import contextlib
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
from bot_deploy.backends.torch import full_float32
from bot_deploy.choices import MERGE_SEPARATOR, feature_code, feature_name
from bot_deploy.datasets import crops_fingerprint
from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError
from bot_deploy.evaluation.protocol import COSINE, evaluate_dataset
from bot_deploy.files import write_atomically
from bot_deploy.model import InferenceGraph
from bot_deploy.runs import CHECKPOINT_NAME
from bot_deploy.telemetry import without_telemetry

from . import loop, run_files
from .distributed import join_world
from .recipe import to_toml

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from bot_deploy.datasets import Dataset

    from .recipe import Recipe

logger = logging.getLogger(__name__)

RankOneAndMap = tuple[float, float]  # percent


@dataclass(frozen=True)
class Variant:
    """One row of a table: its changes to the recipe, and the paper's scores on Market-1501 (ResNet-50, 120 epochs)."""

    name: str
    changes: dict[str, Any]
    paper: RankOneAndMap


# The first row of Table 1, as in the released code (section 2).
BASELINE: dict[str, Any] = {
    "warmup_epochs": 0,
    "erasing_probability": 0.0,
    "label_smoothing": 0.0,
    "last_stride": 2,
    "neck": "none",
    "feature": "before",
    "metric": "euclidean",
    "center_weight": 0.0,
}
# row -> keys that have the recipe's own value from this row on
TRICKS = {
    "+warmup": ("warmup_epochs",),
    "+REA": ("erasing_probability",),
    "+LS": ("label_smoothing",),
    "+stride=1": ("last_stride",),
    "+BNNeck": ("neck", "feature", "metric"),
    "+center loss": ("center_weight",),
}
# (rank-1, mAP) in percent, rows as in the paper
TABLE_1 = ((87.7, 74.0), (88.7, 75.2), (91.3, 79.3), (91.4, 80.3), (92.0, 81.7), (94.1, 85.7), (94.5, 85.9))
TABLE_3 = ((24.4, 12.9), (26.3, 14.1), (21.5, 10.2), (23.2, 11.3), (23.1, 11.8), (26.7, 15.2), (27.5, 15.0))
TABLE_3_WITHOUT_REA = (41.4, 25.7)  # both Market-1501 to DukeMTMC-reID
TABLE_2 = {
    ("ft", "euclidean"): (94.2, 85.5),
    ("ft", "cosine"): (94.2, 85.7),
    ("fi", "euclidean"): (93.8, 83.7),
    ("fi", "cosine"): (94.1, 85.7),
}
TABLE_5 = {
    (8, 3): (92.6, 79.2),
    (8, 4): (92.9, 80.0),
    (8, 6): (93.5, 81.6),
    (8, 8): (93.9, 82.0),
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


def table_variants(table: int, recipe: Recipe) -> list[Variant]:
    """The rows of the paper's `table`; `recipe` has all tricks on.

    Raises:
        InputError: no such table.
    """
    if table == 1:
        return _cumulative_variants(recipe, TABLE_1)
    if table == 2:  # noqa: PLR2004 - the paper's number
        without_neck = Variant(
            "f (w/o BNNeck)", {**WITHOUT_CENTER, "neck": "none", "feature": "before", "metric": "euclidean"}, TABLE_1[4]
        )
        with_neck = [
            Variant(
                f"{feature}, {metric}", {**WITHOUT_CENTER, "feature": feature_name(feature), "metric": metric}, paper
            )
            for (feature, metric), paper in TABLE_2.items()
        ]
        return [without_neck, *with_neck]
    if table == 3:  # noqa: PLR2004
        return [
            *_cumulative_variants(recipe, TABLE_3),
            Variant("-REA", {"erasing_probability": 0.0}, TABLE_3_WITHOUT_REA),
        ]
    settings = {**WITHOUT_CENTER, "metric": "euclidean"}  # inferred: the paper's tables have equal numbers
    if table == 5:  # noqa: PLR2004
        return [
            Variant(f"{p} x {k}", {**settings, "identities_per_batch": p, "images_per_identity": k}, paper)
            for (p, k), paper in TABLE_5.items()
        ]
    if table == 6:  # noqa: PLR2004
        # The paper's sizes, scaled to the recipe's image size.
        return [
            Variant(
                f"{h} x {w}", {**settings, "height": h * recipe.height // 256, "width": w * recipe.width // 128}, paper
            )
            for (h, w), paper in TABLE_6.items()
        ]
    raise InputError(f"no table {table}; choose from {', '.join(map(str, TABLES))}", parameter="table")


def _cumulative_variants(recipe: Recipe, paper: Sequence[RankOneAndMap]) -> list[Variant]:
    changes, variants = dict(BASELINE), [Variant("Baseline-S", dict(BASELINE), paper[0])]
    for (name, keys), scores in zip(TRICKS.items(), paper[1:], strict=True):
        for key in keys:
            changes[key] = getattr(recipe, key)
        variants.append(Variant(name, dict(changes), scores))
    return variants


def scale_schedule(recipe: Recipe, epochs: int) -> Recipe:
    """`recipe` with `epochs` epochs; every other number of epochs changes in proportion."""
    factor = epochs / recipe.epochs
    return dataclasses.replace(
        recipe,
        epochs=epochs,
        warmup_epochs=round(recipe.warmup_epochs * factor),
        small_epochs=round(recipe.small_epochs * factor),
        fixed_norm_epochs=round(recipe.fixed_norm_epochs * factor),
        milestones=tuple(max(1, round(milestone * factor)) for milestone in recipe.milestones),
    )


def run_ablation(
    recipe: Recipe, variants: Sequence[Variant], seeds: int, dataset: Dataset, test: Dataset, out: Path
) -> list[VariantResult]:
    """Trains each variant on `dataset`, evaluates it on `test`, and writes the table to `out` after each row.

    Variants that differ only in feature or metric share one training. Finished trainings and scores are kept in `out`,
    so that a stopped ablation can be started again and continues.

    Raises:
        InputError: it runs under `torchrun`.
        RunError, InputError: see `train`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("an ablation runs in one process; start more with other rows of the table and the same folder")
    results: list[VariantResult] = []
    for variant in variants:
        scores = []
        for seed in range(recipe.seed, recipe.seed + seeds):
            logger.info(f"{variant.name}, seed {seed}")
            scores.append(
                _train_and_score(dataclasses.replace(recipe, **variant.changes, seed=seed), dataset, test, out)
            )
        results.append(VariantResult(variant, tuple(scores)))
        logger.info(str(results[-1]))
        write_table(results, recipe, dataset, test, out)
    return results


def _train_and_score(recipe: Recipe, dataset: Dataset, test: Dataset, out: Path) -> RankOneAndMap:
    # Feature and metric only matter when the trained model is evaluated.
    training_recipe = dataclasses.replace(recipe, feature="after", metric=COSINE, eval_every=0, eval_at_start=False)
    training_key = f"{to_toml(training_recipe)}\n{crops_fingerprint(dataset.train)}"
    folder = out / "runs" / hashlib.sha256(training_key.encode()).hexdigest()[:12]
    score_file = (
        folder / f"{feature_code(recipe.feature)}-{recipe.metric}-{crops_fingerprint([*test.query, *test.gallery])}.txt"
    )
    with contextlib.suppress(OSError, ValueError):  # missing, or damaged: scored again
        rank1, mean_ap = map(float, score_file.read_text(encoding="utf-8").split())
        if 0 <= rank1 <= 100 and 0 <= mean_ap <= 100:  # noqa: PLR2004 - percent
            return rank1, mean_ap
    # Without query and gallery: it is evaluated below, on `test`.
    loop.train(training_recipe, dataclasses.replace(dataset, query=(), gallery=()), folder, resume=True)
    rank1, mean_ap = score_checkpoint(folder / CHECKPOINT_NAME, recipe.feature, recipe.metric, test)
    run_files.write_text(score_file, f"{rank1} {mean_ap}\n")
    return rank1, mean_ap


def score_checkpoint(path: Path, feature: str, metric: str, test: Dataset) -> RankOneAndMap:
    """Rank-1 and mAP in percent of the checkpoint at `path` on `test`, with this feature and metric."""
    from bot_deploy.backends.torch import runner

    saved = checkpoint.load(path)
    contract = dataclasses.replace(saved.contract, feature=feature_code(feature))
    graph = InferenceGraph(saved.build(), contract, unit_length=metric == COSINE)
    with full_float32():
        embedder = Embedder(contract, "PyTorch", runner(graph, join_world().device), unit_length=graph.unit_length)
        scores = evaluate_dataset(embedder, test, metric)
    return scores.rank1, scores.mAP


@dataclass(frozen=True)
class VariantResult:
    """The scores of a variant, one pair for each seed."""

    variant: Variant
    scores: tuple[RankOneAndMap, ...]

    @property
    def mean(self) -> RankOneAndMap:
        """Mean over the seeds."""
        rank1, mean_ap = np.mean(self.scores, axis=0)
        return float(rank1), float(mean_ap)

    def __str__(self) -> str:
        return f"{self.variant.name}: rank-1 {self.mean[0]:.2f}  mAP {self.mean[1]:.2f}"


def write_table(results: Sequence[VariantResult], recipe: Recipe, train: Dataset, test: Dataset, out: Path) -> None:
    """Writes table.md, table.csv and table.png to `out`."""
    setting = (
        f"{recipe.arch} {recipe.height}x{recipe.width}, {recipe.epochs} epochs, weights "
        f"{_file_names([recipe.weights])}, trained on {_file_names(train.sources)}, scored on "
        f"{_file_names(test.sources)}, {len(results[0].scores)} seed(s) from {recipe.seed}. "
        "The paper: ResNet-50 256x128, 120 epochs."
    )
    lines = [
        setting,
        "",
        "| model | rank-1 | mAP | change | paper rank-1 | paper mAP | paper's change |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["model", "rank1", "mAP", "rank1_std", "mAP_std", "paper_rank1", "paper_mAP"])
    previous: VariantResult | None = None
    for result in results:
        mean, paper = result.mean, result.variant.paper
        change = _change(mean, previous.mean) if previous else ""
        paper_change = _change(paper, previous.variant.paper) if previous else ""
        lines.append(
            f"| {result.variant.name} | {mean[0]:.2f} | {mean[1]:.2f} | {change} | {paper[0]} | {paper[1]} | "
            f"{paper_change} |"
        )
        deviations = np.std(result.scores, axis=0)
        table.writerow([result.variant.name, *(f"{value:.4f}" for value in (*mean, *deviations)), *paper])
        previous = result
    run_files.write_text(out / "table.md", "\n".join(lines) + "\n")
    run_files.write_text(out / "table.csv", text.getvalue())
    write_atomically(out / "table.png", lambda path: _plot(results, path))


def _change(scores: RankOneAndMap, previous: RankOneAndMap) -> str:
    return f"{scores[0] - previous[0]:+.1f} / {scores[1] - previous[1]:+.1f}"


def _file_names(sources: Iterable[str]) -> str:
    """The names of the files in `sources`, without their folders."""
    return MERGE_SEPARATOR.join(PurePath(source).name for source in sources)


def _plot(results: Sequence[VariantResult], path: Path) -> None:
    with without_telemetry():
        from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, column, title in zip(figure.subplots(1, 2), (0, 1), ("rank-1, %", "mAP, %"), strict=True):
        positions = np.arange(len(results))
        axes.plot(positions, [result.variant.paper[column] for result in results], "o--", color="grey", label="paper")
        axes.plot(positions, [result.mean[column] for result in results], "o-", label="ours")
        axes.set_xticks(positions, [result.variant.name for result in results], rotation=30, ha="right")
        axes.set_title(title)
        axes.legend()
    figure.savefig(path, format="png", dpi=100)
