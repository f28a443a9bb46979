"""The training loop on a few noise crops: the files of a run, repeated runs, and errors."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.training_run import (
    CAMERAS,
    IDENTITIES,
    IMAGES,
    RECIPE,
    SIZE,
    assert_same_run,
    metrics_without_time,
    read_metrics,
    same_weights,
)
from PIL import Image

import bot_deploy
from bot_deploy import open_embedder
from bot_deploy.artifacts import checkpoint
from bot_deploy.datasets import Dataset
from bot_deploy.errors import InputError, RunError
from bot_deploy.evaluation.protocol import evaluate_dataset
from bot_deploy.train import loop
from bot_deploy.train.data import TrainingSet
from bot_deploy.train.distributed import World
from bot_deploy.train.recipe import Recipe, recipe_from_values
from bot_deploy.train.schedule import learning_rate
from bot_deploy.train.state import create_state

pytestmark = pytest.mark.usefixtures("one_thread_and_no_gpu")


def test_the_files_of_a_run(finished: Path) -> None:
    names = sorted(path.name for path in finished.iterdir())
    assert names == ["config.toml", "curves.png", "metrics.csv", "model.pt", "state.pt", "tensorboard"]


def test_metrics_have_a_row_for_every_epoch(finished: Path) -> None:
    rows = read_metrics(finished)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row in rows:
        assert float(row["lr"]) == learning_rate(int(row["epoch"]), RECIPE)
        for key in ("id_loss", "triplet_loss", "center_loss", "images_per_second", "seconds"):
            assert math.isfinite(float(row[key]))
            assert float(row[key]) > 0
        assert 0 <= float(row["accuracy"]) <= 100
    # For an untrained model, all six identities are equally likely.
    assert float(rows[0]["id_loss"]) == pytest.approx(math.log(6), abs=0.2)
    # The centers move to their features.
    assert float(rows[1]["center_loss"]) < 0.8 * float(rows[0]["center_loss"])
    # Evaluated only after the last epoch.
    assert (rows[0]["rank1"], rows[0]["mAP"]) == ("", "")
    assert 0 <= float(rows[1]["rank1"]) <= 100
    assert 0 < float(rows[1]["mAP"]) <= 100


def test_curves_png_is_an_image_with_content(finished: Path) -> None:
    with Image.open(finished / "curves.png") as image:
        assert (image.format, image.size) == ("PNG", (1200, 350))
        assert len(set(np.asarray(image.convert("L")).flatten().tolist())) > 10


def test_config_toml_has_recipe_data_and_versions(finished: Path, data: Dataset) -> None:
    config = tomllib.loads((finished / "config.toml").read_text(encoding="utf-8"))
    keys = {field.name for field in dataclasses.fields(Recipe)}
    assert set(config) == {*keys, "data", "versions"}
    assert recipe_from_values({key: config[key] for key in keys}) == RECIPE
    lines = "\n".join(f"{crop.path.name} {crop.identity} {crop.camera}" for crop in data.train)
    assert config["data"] == {
        "sources": [data.name],
        "crops": IDENTITIES * CAMERAS * IMAGES,
        "fingerprint": hashlib.sha256(lines.encode()).hexdigest()[:16],
    }
    assert config["versions"] == {
        "bot_deploy": bot_deploy.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": torch.__version__,
        "torchvision": config["versions"]["torchvision"],
    }


def test_the_checkpoint_has_the_scores_of_metrics_csv(finished: Path, data: Dataset) -> None:
    embedder = open_embedder(finished / "model.pt", device="cpu")
    assert embedder.contract.size == SIZE
    scores = evaluate_dataset(embedder, data)
    last = read_metrics(finished)[-1]
    assert scores.rank1 == pytest.approx(float(last["rank1"]))
    assert scores.mAP == pytest.approx(float(last["mAP"]))
    saved = checkpoint.load(finished / "model.pt")
    assert (saved.num_ids, saved.last_stride, saved.neck, saved.data) == (6, 1, "bnneck", (data.name,))


def test_two_runs_with_one_seed_are_bit_identical(finished: Path, data: Dataset, tmp_path: Path) -> None:
    torch.rand(17)  # random numbers drawn before a run do not matter
    np.random.default_rng().random()
    loop.train(RECIPE, data, tmp_path / "again")
    assert_same_run(finished, tmp_path / "again")


def test_another_seed_gives_another_run(finished: Path, data: Dataset, tmp_path: Path) -> None:
    loop.train(dataclasses.replace(RECIPE, seed=1), data, tmp_path / "other")
    assert metrics_without_time(tmp_path / "other")[0]["id_loss"] != metrics_without_time(finished)[0]["id_loss"]
    assert not same_weights(tmp_path / "other", finished)


def test_evaluation_does_not_change_training(finished: Path, data: Dataset, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, eval_at_start=True, eval_every=1)
    loop.train(recipe, data, tmp_path / "run")
    assert same_weights(finished, tmp_path / "run")
    rows = read_metrics(tmp_path / "run")
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert all(float(row["mAP"]) > 0 for row in rows)
    assert rows[0]["id_loss"] == ""


def test_without_query_and_gallery_there_is_no_evaluation(data: Dataset, tmp_path: Path) -> None:
    loop.train(dataclasses.replace(RECIPE, epochs=1), dataclasses.replace(data, query=(), gallery=()), tmp_path / "run")
    assert [row["mAP"] for row in read_metrics(tmp_path / "run")] == [""]


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": "paper"},
        {"precision": "bf16"},
        {"center_weight": 0.0},
        {"neck": "none", "last_stride": 2, "label_smoothing": 0.0, "warmup_epochs": 0, "erasing_probability": 0.0},
        {"feature": "before"},
    ],
    ids=["paper", "bf16", "no center loss", "standard baseline", "before the neck"],
)
def test_every_trick_has_a_switch(changes: dict[str, Any], finished: Path, data: Dataset, tmp_path: Path) -> None:
    loop.train(dataclasses.replace(RECIPE, epochs=1, **changes), data, tmp_path / "run")
    (row,) = metrics_without_time(tmp_path / "run")
    assert all(math.isfinite(float(row[key])) for key in ("id_loss", "triplet_loss", "center_loss"))
    if "center_weight" in changes:
        assert float(row["center_loss"]) == 0
    if "feature" in changes:
        assert row["id_loss"] == metrics_without_time(finished)[0]["id_loss"]  # another embedding, the same training
        assert checkpoint.load(tmp_path / "run" / "model.pt").contract.feature == "before"
    else:
        assert row["id_loss"] != metrics_without_time(finished)[0]["id_loss"]


def test_the_optimizers_are_those_of_the_released_code() -> None:
    recipe = dataclasses.replace(RECIPE, protocol="paper", center_lr=0.25)
    state = create_state(recipe, 6, "cpu")
    assert isinstance(state.optimizer, torch.optim.Adam)
    (group,) = state.optimizer.param_groups
    assert group["weight_decay"] == 5e-4
    assert not group["decoupled_weight_decay"]
    named = {parameter: name for name, parameter in state.model.named_parameters()}
    # Batch-norm and biases too; only the neck's frozen shift is left out.
    assert {named[parameter] for parameter in group["params"]} == set(named.values()) - {"neck.bias"}
    (center,) = state.center_optimizer.param_groups
    assert isinstance(state.center_optimizer, torch.optim.SGD)
    assert (center["lr"], center["momentum"], center["weight_decay"]) == (0.25, 0, 0)
    assert center["params"] == [state.center.centers]
    assert state.center.scaling == "paper"


ALONE = World(0, 1, "cpu")


def test_training_learns() -> None:
    # Each identity has its own colour.
    labels, rng = np.repeat(np.arange(6), 8), np.random.default_rng(0)
    colours = np.array([[number & 1, number & 2, number & 4] for number in labels + 1]) > 0
    pixels = rng.integers(0, 56, (len(labels), *SIZE, 3)) + 200 * colours[:, None, None]
    crops = TrainingSet((), labels, SIZE, torch.from_numpy(pixels.astype(np.uint8)))
    changes = {
        "arch": "resnet18",
        "identities_per_batch": 6,
        "images_per_identity": 4,
        "lr": 1e-3,
        "warmup_epochs": 0,
        "erasing_probability": 0.0,
        "epochs": 5,
    }
    recipe = dataclasses.replace(RECIPE, **changes)
    state = create_state(recipe, 6, "cpu")
    rows = [loop.train_epoch(state, crops, recipe, ALONE) for _ in range(recipe.epochs)]
    first, last = rows[0], rows[-1]
    assert state.epoch == last.epoch == 5
    assert first.id_loss
    assert last.id_loss
    assert last.id_loss < 0.8 < first.id_loss  # label smoothing leaves 0.42
    assert last.accuracy
    assert last.accuracy > 90
    assert last.triplet_loss is not None
    assert last.triplet_loss < RECIPE.margin
    assert first.center_loss
    assert last.center_loss
    assert last.center_loss < first.center_loss / 3


def test_each_epoch_has_other_random_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    batches, pixels = [], []
    augment = loop.transforms.augment

    def record(images: torch.Tensor, *options: Any) -> torch.Tensor:
        result = augment(images, *options)
        batches.append(images)
        pixels.append(result)
        return result

    monkeypatch.setattr(loop.transforms, "augment", record)
    # In the second cache all images are the same: differences after augmentation come from the random draws.
    noise = np.random.default_rng(0).integers(0, 256, (6, *SIZE, 3), dtype=np.uint8)
    recipe = dataclasses.replace(RECIPE, identities_per_batch=3, images_per_identity=2)
    for cache in (noise, noise[[0] * 6]):
        crops = TrainingSet((), np.arange(6) // 2, SIZE, torch.from_numpy(cache))
        state = create_state(recipe, 3, "cpu")
        loop.train_epoch(state, crops, recipe, ALONE)
        loop.train_epoch(state, crops, recipe, ALONE)
    assert not torch.equal(batches[0], batches[1])
    assert not torch.equal(pixels[2], pixels[3])


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_batch(data: Dataset, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, lr=1e30, warmup_epochs=0)
    with pytest.raises(RunError, match=r"epoch 1: the loss is not finite.*a lower lr.*the batch was ") as caught:
        loop.train(recipe, data, tmp_path / "run")
    files = [str(crop.path) for crop in data.train]
    assert sum(file in str(caught.value) for file in files) == recipe.identities_per_batch * recipe.images_per_identity
    assert not (tmp_path / "run" / "model.pt").exists()


def test_a_loss_that_is_not_finite_leaves_the_files_of_the_last_good_epoch(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(loop, "learning_rate", lambda epoch, recipe: recipe.lr if epoch == 1 else 1e30)
    with pytest.raises(RunError, match="epoch 2: the loss is not finite"):
        loop.train(RECIPE, data, out)
    assert all(torch.isfinite(value).all() for value in checkpoint.load(out / "model.pt").state.values())
    assert torch.load(out / "state.pt", weights_only=True)["epoch"] == 1


def test_unreadable_crops_are_named(data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "empty.png").write_bytes(b"")
    bad = [dataclasses.replace(data.train[0], path=tmp_path / name) for name in ("broken.png", "empty.png", "gone.png")]
    words = r"^3 training crops cannot be read.*broken\.png.*empty\.png.*gone\.png"
    with pytest.raises(InputError, match=words):
        loop.train(RECIPE, dataclasses.replace(data, train=(*data.train, *bad)), tmp_path / "run")


def test_many_unreadable_crops_are_counted(data: Dataset, tmp_path: Path) -> None:
    bad = [dataclasses.replace(data.train[0], path=tmp_path / f"gone{number}.png") for number in range(40)]
    with pytest.raises(InputError, match=r"^40 training crops.*gone4\.png.*; and 35 more$"):
        loop.train(RECIPE, dataclasses.replace(data, train=(*data.train, *bad)), tmp_path / "run")


def test_training_without_a_cache_is_the_same(
    finished: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot_deploy.train.data.MAX_CACHE_SHARE", 0)
    loop.train(dataclasses.replace(RECIPE, epochs=1), data, tmp_path / "run")
    for key in ("id_loss", "triplet_loss", "center_loss", "accuracy"):
        assert metrics_without_time(tmp_path / "run")[0][key] == metrics_without_time(finished)[0][key]


def test_no_training_crops(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no train crops found"):
        loop.train(RECIPE, dataclasses.replace(data, train=()), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("obstacle", ["a file", "a file above", "a folder for config.toml"])
def test_an_out_that_cannot_be_written_fails_before_training(
    obstacle: str, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_epoch(*_: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(loop, "train_epoch", train_epoch)
    monkeypatch.setattr(loop, "open_training_set", train_epoch)
    out = tmp_path / "run"
    if obstacle == "a file":
        out.write_bytes(b"mine")
    elif obstacle == "a file above":
        out.write_bytes(b"mine")
        out = out / "below"
    else:
        (out / "config.toml").mkdir(parents=True)
    with pytest.raises(RunError, match=r"run.*: cannot be (created|written) "):
        loop.train(RECIPE, data, out)
    if obstacle != "a folder for config.toml":
        assert (tmp_path / "run").read_bytes() == b"mine"


def test_tensorboard_has_every_epoch(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(finished / "tensorboard"))
    log.Reload()
    rows = read_metrics(finished)
    assert [event.step for event in log.Scalars("id_loss")] == [int(row["epoch"]) for row in rows]
    for event, row in zip(log.Scalars("id_loss"), rows, strict=True):
        assert event.value == pytest.approx(float(row["id_loss"]), rel=1e-5)


def test_a_disk_too_small_stops_before_training(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = loop.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(loop.shutil, "disk_usage", lambda _: usage._replace(free=10 * 2**20))
    with pytest.raises(RunError, match=r"10 MiB free, but a run needs \d+ MiB"):
        loop.train(RECIPE, data, tmp_path / "run")
    assert not (tmp_path / "run" / "model.pt").exists()


def test_fp16_without_a_gpu_is_refused(data: Dataset, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(InputError, match="precision=fp16 needs a GPU"):
        loop.train(dataclasses.replace(RECIPE, precision="fp16"), data, tmp_path / "run")


def test_a_failed_evaluation_does_not_stop_the_run(
    data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strangers = dataclasses.replace(
        data, gallery=tuple(dataclasses.replace(crop, identity=999) for crop in data.gallery)
    )
    loop.train(RECIPE, strangers, tmp_path / "run")
    assert "not evaluated: no query has a true match" in caplog.text
    assert (tmp_path / "run" / "model.pt").is_file()
    assert [row["rank1"] for row in read_metrics(tmp_path / "run")] == ["", ""]


# PyTorch 2.11 warns about what its own compiler does.
@pytest.mark.filterwarnings("ignore:.*Function.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
def test_compile_goes_through_torch_compile_and_trains(
    data: Dataset, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[torch.nn.Module] = []
    compile_ = torch.compile

    def compile_eagerly(model: torch.nn.Module) -> object:
        # Without a C++ compiler. The compiled model has no length.
        compiled.append(model)
        return compile_(model, backend="eager")

    monkeypatch.setattr(loop.torch, "compile", compile_eagerly)
    loop.train(dataclasses.replace(RECIPE, epochs=1, compile=True), data, tmp_path / "run")
    assert len(compiled) == 1
    for row, eager in zip(read_metrics(tmp_path / "run"), read_metrics(finished)[:1], strict=True):
        assert float(row["id_loss"]) == pytest.approx(float(eager["id_loss"]), rel=1e-3)


def test_the_last_epochs_train_with_fixed_statistics(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[dict[str, torch.Tensor]] = []
    features: list[tuple[torch.Tensor, torch.Tensor]] = []  # of the network in training, and in evaluation
    step, finish = loop.train_step, loop.finish_epoch

    def compare_and_step(state: Any, pixels: torch.Tensor, *rest: Any) -> torch.Tensor:
        with torch.no_grad():
            trained = state.model(pixels)[1]
            modes = {module: module.training for module in state.model.modules()}
            features.append((trained, state.model.eval()(pixels)))
        for module, mode in modes.items():
            module.training = mode
        return step(state, pixels, *rest)

    def note_and_finish(state: Any, *rest: Any) -> None:
        weights.append({key: value.clone() for key, value in state.model.state_dict().items()})
        finish(state, *rest)

    monkeypatch.setattr(loop, "train_step", compare_and_step)
    monkeypatch.setattr(loop, "finish_epoch", note_and_finish)
    loop.train(dataclasses.replace(RECIPE, epochs=2, fixed_norm_epochs=1), data, tmp_path / "run")
    first, last = weights
    statistics = [key for key in first if "running" in key]
    assert statistics
    assert all(torch.equal(first[key], last[key]) for key in statistics)
    assert not torch.equal(first["classifier.weight"], last["classifier.weight"])
    half = len(features) // 2  # each epoch has as many steps
    assert not any(torch.allclose(trained, used, atol=1e-2) for trained, used in features[:half])
    for trained, used in features[half:]:
        torch.testing.assert_close(trained, used)
