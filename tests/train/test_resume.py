"""Runs that stop by a crash or by kill -9 and are resumed: bit-identical to runs without a stop."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.training_run import RECIPE, assert_same_run, read_metrics, same_weights

from bot_deploy.datasets import Dataset, open_dataset
from bot_deploy.errors import InputError
from bot_deploy.train import loop, run_files
from bot_deploy.train.recipe import Recipe, load_recipe, to_toml
from bot_deploy.train.state import TrainingState

pytestmark = pytest.mark.usefixtures("one_thread_and_no_gpu")


class CrashError(Exception):
    pass


def crash_in(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Makes `epoch` raise after three steps."""
    original, steps = loop.update_weights, [0]

    def step(state: TrainingState, loss: torch.Tensor, recipe: Recipe) -> None:
        original(state, loss, recipe)
        steps[0] += state.epoch + 1 == epoch
        if steps[0] == 3:
            raise CrashError

    monkeypatch.setattr(loop, "update_weights", step)


def test_a_resumed_run_is_bit_identical(
    finished: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        crash_in(patch, epoch=2)
        with pytest.raises(CrashError):
            loop.train(RECIPE, data, out)
    assert [row["epoch"] for row in read_metrics(out)] == ["1"]
    assert not same_weights(finished, out)
    loop.train(RECIPE, data, out, resume=True)
    assert_same_run(finished, out)


def test_a_run_killed_between_its_last_state_and_its_metrics_is_completed(
    finished: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        write = run_files.write_metrics

        def crash(folder: Path, rows: list[run_files.EpochMetrics]) -> None:
            if len(rows) == RECIPE.epochs:
                raise CrashError
            write(folder, rows)

        patch.setattr(run_files, "write_metrics", crash)
        with pytest.raises(CrashError):
            loop.train(RECIPE, data, out)
    assert len(read_metrics(out)) == 1
    loop.train(RECIPE, data, out, resume=True)
    assert_same_run(finished, out)


def test_resuming_a_finished_run_changes_nothing(finished: Path, data: Dataset) -> None:
    before = (finished / "model.pt").read_bytes(), read_metrics(finished)
    assert loop.train(RECIPE, data, finished, resume=True) == finished / "model.pt"
    assert before == ((finished / "model.pt").read_bytes(), read_metrics(finished))


def test_a_run_without_its_state_is_not_overwritten(finished: Path, data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "state.pt").unlink()
    before = (out / "model.pt").read_bytes()
    with pytest.raises(InputError, match=r"state\.pt is missing, so the run cannot be resumed"):
        loop.train(RECIPE, data, out, resume=True)
    assert (out / "model.pt").read_bytes() == before


def test_resume_in_an_empty_folder_starts_a_run(data: Dataset, tmp_path: Path) -> None:
    loop.train(dataclasses.replace(RECIPE, epochs=1), data, tmp_path / "run", resume=True)
    assert [row["epoch"] for row in read_metrics(tmp_path / "run")] == ["1"]


def bot_train(data: Dataset, recipe: Recipe, out: Path, *more: str) -> list[str]:
    quick = load_recipe("quick")
    changed = {key: value for key, value in vars(recipe).items() if value != getattr(quick, key)}
    settings = [f"{key}={list(value) if isinstance(value, tuple) else value}" for key, value in changed.items()]
    options = [option for setting in settings for option in ("--set", setting)]
    command = [sys.executable, "-m", "bot_deploy", "train", "--data", data.name, "--recipe", "quick"]
    return [*command, "--out", str(out), *options, *more]


@pytest.mark.slow
def test_a_run_resumed_after_kill_9_is_bit_identical(data: Dataset, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=5)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    whole, epochs_done = tmp_path / "whole", recipe.epochs
    for attempt in range(6):  # on a fast machine the run may end before it is killed
        killed, delay = tmp_path / f"killed-{attempt}", random.random() / 2**attempt
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(bot_train(data, recipe, killed), stderr=log, env=environment)
        try:
            started = time.monotonic()
            while not (killed / "state.pt").exists():
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() - started < 120
                time.sleep(0.01)
            time.sleep(delay)
        finally:
            process.kill()
            process.wait()
        epochs_done = torch.load(killed / "state.pt", weights_only=True)["epoch"]
        if epochs_done < recipe.epochs:
            break
    assert process.returncode == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert 1 <= epochs_done < recipe.epochs, f"killed {delay} s after the first epoch"

    command = bot_train(data, recipe, killed, "--resume")
    resumed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert f"epoch {epochs_done:3d} " not in resumed.stderr
    assert f"epoch {epochs_done + 1:3d} " in resumed.stderr
    loop.train(recipe, data, whole)
    assert_same_run(whole, killed)
    assert [row["epoch"] for row in read_metrics(killed)] == ["1", "2", "3", "4", "5"]


def test_an_existing_run_is_not_overwritten(finished: Path, data: Dataset) -> None:
    before = (finished / "model.pt").read_bytes()
    with pytest.raises(InputError, match=r"already holds a run; resume it, or choose another folder"):
        loop.train(RECIPE, data, finished)
    assert (finished / "model.pt").read_bytes() == before


@pytest.mark.parametrize("change", [{"lr": 1e-3}, {"epochs": 1}, {"seed": 5}])
def test_resume_with_another_recipe_is_refused(change: dict[str, Any], finished: Path, data: Dataset) -> None:
    before = (finished / "config.toml").read_bytes()
    with pytest.raises(InputError, match=rf"another recipe: {next(iter(change))}="):
        loop.train(dataclasses.replace(RECIPE, **change), data, finished, resume=True)
    assert (finished / "config.toml").read_bytes() == before


def test_a_run_of_an_older_version_is_resumed(finished: Path, data: Dataset) -> None:
    config = finished / "config.toml"
    text = config.read_text(encoding="utf-8")
    newer = ("color_jitter", "grayscale_", "jpeg_", "label_weight", "relation_", "direction_", "unlabeled_", "small_")
    older = "".join(line for line in text.splitlines(keepends=True) if not line.startswith(newer))
    older = older.replace("identities_per_batch", "p").replace("images_per_identity", "k").replace("padding", "pad")
    older = older.replace("_probability", "").replace("label_smoothing", "smoothing").replace('"after"', '"fi"')
    assert older != text
    config.write_text(older, encoding="utf-8")
    assert run_files.read_config(finished).recipe == RECIPE
    assert loop.train(RECIPE, data, finished, resume=True) == finished / "model.pt"
    assert config.read_text(encoding="utf-8") == text


def test_resume_with_other_data_is_refused(finished: Path, data: Dataset) -> None:
    with pytest.raises(InputError, match="was started on other data: the names, identities or cameras"):
        loop.train(RECIPE, dataclasses.replace(data, train=data.train[:-1]), finished, resume=True)


def test_more_epochs_give_the_weights_of_a_run_that_had_them_from_the_start(data: Dataset, tmp_path: Path) -> None:
    for epochs in (1, 2):
        loop.train(dataclasses.replace(RECIPE, epochs=epochs), data, tmp_path / "grown", resume=True)
    loop.train(RECIPE, data, tmp_path / "whole")
    assert same_weights(tmp_path / "whole", tmp_path / "grown")
    assert [row["epoch"] for row in read_metrics(tmp_path / "grown")] == ["1", "2"]


def test_a_run_goes_on_with_data_that_have_moved(crops: Path, finished: Path, tmp_path: Path) -> None:
    out = shutil.copytree(finished, tmp_path / "run")
    moved = shutil.copytree(crops, tmp_path / "elsewhere")
    loop.train(dataclasses.replace(RECIPE, epochs=3), open_dataset(moved), out, resume=True)
    assert run_files.read_config(out).sources == (str(moved),)
    assert len(read_metrics(out)) == 3


def test_one_identity_is_refused_and_not_advised_p_1(data: Dataset, tmp_path: Path) -> None:
    alone = dataclasses.replace(data, train=tuple(crop for crop in data.train if crop.identity == 1))
    with pytest.raises(InputError, match="1 training identity; training needs crops of at least 2 people"):
        loop.train(RECIPE, alone, tmp_path / "run")


def test_a_run_that_failed_in_its_first_epoch_starts_again(data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(
        InputError, match=r"6 training identities, but a batch takes 16; set identities_per_batch to 6 or less"
    ):
        loop.train(dataclasses.replace(RECIPE, identities_per_batch=16), data, out)
    with pytest.raises(InputError, match="unknown backbone 'resnet'"):
        loop.train(dataclasses.replace(RECIPE, arch="resnet"), data, out)
    recipe = dataclasses.replace(RECIPE, epochs=1)
    loop.train(recipe, data, out)
    config = tomllib.loads((out / "config.toml").read_text(encoding="utf-8"))
    assert (config["identities_per_batch"], config["arch"]) == (3, RECIPE.arch)


@pytest.mark.parametrize("data", ['sources = ["a + b", "c"]', 'source = "a + b + c"'], ids=["new", "old"])
def test_the_sources_of_a_run(data: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f"{to_toml(RECIPE)}[data]\n{data}\n[versions]\n")
    sources = ("a + b", "c") if data.startswith("sources") else ("a", "b", "c")  # older files hold one string
    assert run_files.read_config(tmp_path) == run_files.RunConfig(RECIPE, sources)


def test_config_toml_names_each_source(tmp_path: Path) -> None:
    sources = ("it's a + b", 'c"d')
    run_files.open_run(tmp_path, RECIPE, Dataset(sources, (), (), ()), resume=False)
    assert run_files.read_config(tmp_path).sources == sources
