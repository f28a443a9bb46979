"""The paper's tables as rungs, and a ladder that is run, stopped and taken up again."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest

from bot_deploy.datasets import open_dataset
from bot_deploy.errors import InputError
from bot_deploy.train import ablation, recipe
from bot_deploy.train.recipe import Recipe

STRONG = Recipe()
TINY = Recipe(
    arch="resnet18", weights="none", height=32, width=16, epochs=1, warmup_epochs=1, milestones=(1,), p=4, k=2, pad=2
)


def test_the_ladder_goes_from_the_standard_baseline_to_the_strong_one() -> None:
    rungs = ablation.rungs(1, STRONG)
    assert [rung.name for rung in rungs] == [
        "Baseline-S",
        "+warmup",
        "+REA",
        "+LS",
        "+stride=1",
        "+BNNeck",
        "+center loss",
    ]
    assert [rung.paper for rung in rungs][::6] == [(87.7, 74.0), (94.5, 85.9)]
    laid = [dataclasses.replace(STRONG, **rung.changes) for rung in rungs]
    assert laid[-1] == STRONG == recipe.load("strong")
    assert laid[-2] == recipe.load("strong-no-center")
    assert laid[0] == recipe.load("standard-baseline")
    # One trick a row.
    for trick, before, after in zip(ablation.TRICKS.values(), laid, laid[1:], strict=False):
        differing = {f.name for f in dataclasses.fields(Recipe) if getattr(before, f.name) != getattr(after, f.name)}
        assert differing == set(trick)


def test_table_2_scores_one_network_four_ways() -> None:
    rungs = ablation.rungs(2, STRONG)
    laid = [dataclasses.replace(STRONG, **rung.changes) for rung in rungs]
    assert len({dataclasses.replace(one, feature="fi", metric="cosine") for one in laid}) == 2
    assert [(one.feature, one.metric) for one in laid[1:]] == [
        ("ft", "euclidean"),
        ("ft", "cosine"),
        ("fi", "euclidean"),
        ("fi", "cosine"),
    ]
    assert all(one.center_weight == 0 for one in laid)


def test_the_other_tables() -> None:
    assert ablation.rungs(3, STRONG)[-1].changes == {"erasing": 0.0}
    batches = [(rung.changes["p"], rung.changes["k"]) for rung in ablation.rungs(5, STRONG)]
    assert batches == [(8, 3), (8, 4), (8, 6), (8, 8), (16, 3), (16, 4), (16, 6), (16, 8), (32, 3), (32, 4)]
    sizes = [(rung.changes["height"], rung.changes["width"]) for rung in ablation.rungs(6, STRONG)]
    assert sizes == [(256, 128), (224, 224), (384, 128), (384, 192)]
    half = ablation.rungs(6, dataclasses.replace(STRONG, height=128, width=64))
    assert [(rung.changes["height"], rung.changes["width"]) for rung in half][1:3] == [(112, 112), (192, 64)]
    with pytest.raises(InputError, match="no table 4; choose from 1, 2, 3, 5, 6"):
        ablation.rungs(4, STRONG)


def test_a_scaled_schedule_keeps_its_proportions() -> None:
    short = ablation.scaled(STRONG, 12)
    assert (short.epochs, short.warmup_epochs, short.milestones) == (12, 1, (4, 7))


def test_a_ladder_is_written_and_taken_up_again(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(people)
    table = [rung for rung in ablation.rungs(1, TINY) if rung.name in {"Baseline-S", "+BNNeck"}]
    trained: list[Recipe] = []
    train = ablation.loop.train

    def counted(chosen: Recipe, *arguments: object, **options: object) -> Path:
        trained.append(chosen)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(chosen, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ablation.loop, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        ablation.run(TINY, table, 1, dataset, dataset, tmp_path)
    first = (tmp_path / "table.md").read_text()
    assert "| Baseline-S |" in first
    assert "+BNNeck" not in first
    rows = ablation.run(TINY, table, 1, dataset, dataset, tmp_path)
    assert len(trained) == 3  # the finished row was not trained again
    with (tmp_path / "table.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["model"] for row in written] == ["Baseline-S", "+BNNeck"]
    assert [float(row["mAP"]) for row in written] == pytest.approx([row.mean[1] for row in rows], abs=1e-4)
    assert [float(row["paper_mAP"]) for row in written] == [74.0, 85.7]
    assert 0 < rows[0].mean[1] < 100
    assert (tmp_path / "table.png").stat().st_size > 5000
    # Other data are another table, not this one's figures.
    fewer = dataclasses.replace(dataset, query=dataset.query[:5])
    other = ablation.run(TINY, table[:1], 1, dataset, fewer, tmp_path)
    assert len(trained) == 4
    assert other[0].figures != rows[0].figures


def test_an_ablation_under_torchrun_is_refused(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    data = open_dataset(people)
    with pytest.raises(InputError, match="one process"):
        ablation.run(recipe.load("quick"), [], 1, data, data, tmp_path)


def test_feature_and_metric_decide_the_score_of_one_network(people: Path, tmp_path: Path) -> None:
    dataset = open_dataset(people)
    path = ablation.loop.train(TINY, dataset, tmp_path / "run")
    figures = {
        (feature, metric): ablation.score(path, feature, metric, dataset)
        for feature in ("ft", "fi")
        for metric in ("cosine", "euclidean")
    }
    assert len(set(figures.values())) > 1
    # What the loop wrote for the recipe's own feature and metric.
    with (tmp_path / "run" / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert figures["fi", "cosine"] == pytest.approx((float(last["rank1"]), float(last["mAP"])), abs=1e-3)
