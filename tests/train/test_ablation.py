"""The tables of the paper as variants of a recipe, and an ablation that is run, stopped and continued."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest

from bot_deploy.datasets import open_dataset
from bot_deploy.errors import InputError
from bot_deploy.train import ablation
from bot_deploy.train.recipe import Recipe, load_recipe

pytestmark = pytest.mark.usefixtures("one_thread_and_no_gpu")

STRONG = Recipe()
TINY = Recipe(
    arch="mobilenet_v2",
    weights="none",
    height=32,
    width=16,
    epochs=1,
    warmup_epochs=1,
    milestones=(1,),
    identities_per_batch=4,
    images_per_identity=2,
    padding=2,
)


def test_table_1_goes_from_the_standard_baseline_to_the_strong_one() -> None:
    variants = ablation.table_variants(1, STRONG)
    assert [variant.name for variant in variants] == [
        "Baseline-S",
        "+warmup",
        "+REA",
        "+LS",
        "+stride=1",
        "+BNNeck",
        "+center loss",
    ]
    assert [variant.paper for variant in variants][::6] == [(87.7, 74.0), (94.5, 85.9)]
    recipes = [dataclasses.replace(STRONG, **variant.changes) for variant in variants]
    assert recipes[-1] == STRONG == load_recipe("strong")
    assert recipes[-2] == load_recipe("strong-no-center")
    assert recipes[0] == load_recipe("standard-baseline")
    # One trick a row.
    for trick, before, after in zip(ablation.TRICKS.values(), recipes, recipes[1:], strict=False):
        differing = {f.name for f in dataclasses.fields(Recipe) if getattr(before, f.name) != getattr(after, f.name)}
        assert differing == set(trick)


def test_table_2_scores_one_network_four_ways() -> None:
    variants = ablation.table_variants(2, STRONG)
    recipes = [dataclasses.replace(STRONG, **variant.changes) for variant in variants]
    assert len({dataclasses.replace(recipe, feature="fi", metric="cosine") for recipe in recipes}) == 2
    assert [(recipe.feature, recipe.metric) for recipe in recipes[1:]] == [
        ("before", "euclidean"),
        ("before", "cosine"),
        ("after", "euclidean"),
        ("after", "cosine"),
    ]
    assert all(recipe.center_weight == 0 for recipe in recipes)


def test_the_other_tables() -> None:
    assert ablation.table_variants(3, STRONG)[-1].changes == {"erasing_probability": 0.0}
    batches = [
        (variant.changes["identities_per_batch"], variant.changes["images_per_identity"])
        for variant in ablation.table_variants(5, STRONG)
    ]
    assert batches == [(8, 3), (8, 4), (8, 6), (8, 8), (16, 3), (16, 4), (16, 6), (16, 8), (32, 3), (32, 4)]
    sizes = [(variant.changes["height"], variant.changes["width"]) for variant in ablation.table_variants(6, STRONG)]
    assert sizes == [(256, 128), (224, 224), (384, 128), (384, 192)]
    half = ablation.table_variants(6, dataclasses.replace(STRONG, height=128, width=64))
    assert [(variant.changes["height"], variant.changes["width"]) for variant in half][1:3] == [(112, 112), (192, 64)]
    with pytest.raises(InputError, match="no table 4; choose from 1, 2, 3, 5, 6"):
        ablation.table_variants(4, STRONG)


def test_a_scaled_schedule_keeps_its_proportions() -> None:
    short = ablation.scale_schedule(STRONG, 12)
    assert (short.epochs, short.warmup_epochs, short.milestones) == (12, 1, (4, 7))
    longer = dataclasses.replace(STRONG, small_epochs=60, fixed_norm_epochs=20)
    short = ablation.scale_schedule(longer, 12)
    assert (short.small_epochs, short.fixed_norm_epochs) == (6, 2)


def test_a_stopped_ablation_continues(few_people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(few_people)
    table = [variant for variant in ablation.table_variants(1, TINY) if variant.name in {"Baseline-S", "+BNNeck"}]
    trained: list[Recipe] = []
    train = ablation.loop.train

    def counted(chosen: Recipe, *arguments: object, **options: object) -> Path:
        trained.append(chosen)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(chosen, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ablation.loop, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        ablation.run_ablation(TINY, table, 1, dataset, dataset, tmp_path)
    first = (tmp_path / "table.md").read_text()
    assert "| Baseline-S |" in first
    assert "+BNNeck" not in first
    rows = ablation.run_ablation(TINY, table, 1, dataset, dataset, tmp_path)
    assert len(trained) == 3  # the finished row was not trained again
    with (tmp_path / "table.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["model"] for row in written] == ["Baseline-S", "+BNNeck"]
    assert [float(row["mAP"]) for row in written] == pytest.approx([row.mean[1] for row in rows], abs=1e-4)
    assert [float(row["paper_mAP"]) for row in written] == [74.0, 85.7]
    assert 0 < rows[0].mean[1] < 100
    assert (tmp_path / "table.png").stat().st_size > 5000
    # Another test set has its own scores.
    fewer = dataclasses.replace(dataset, query=dataset.query[:5])
    other = ablation.run_ablation(TINY, table[:1], 1, dataset, fewer, tmp_path)
    assert len(trained) == 4
    assert other[0].scores != rows[0].scores


def test_an_ablation_under_torchrun_is_refused(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    data = open_dataset(people)
    with pytest.raises(InputError, match="one process"):
        ablation.run_ablation(load_recipe("quick"), [], 1, data, data, tmp_path)


def test_feature_and_metric_decide_the_score_of_one_network(few_people: Path, tmp_path: Path) -> None:
    dataset = open_dataset(few_people)
    path = ablation.loop.train(TINY, dataset, tmp_path / "run")
    scores = {
        (feature, metric): ablation.score_checkpoint(path, feature, metric, dataset)
        for feature in ("before", "after")
        for metric in ("cosine", "euclidean")
    }
    assert len(set(scores.values())) > 1
    # What the loop wrote for the recipe's own feature and metric.
    with (tmp_path / "run" / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert scores["after", "cosine"] == pytest.approx((float(last["rank1"]), float(last["mAP"])), abs=1e-3)
