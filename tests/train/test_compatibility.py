"""Compatible training: the loss against naive loops, the step, whole runs, and the contract that they write."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import training_run

from bot_deploy.artifacts import checkpoint, read_contract
from bot_deploy.cli import main
from bot_deploy.datasets import open_dataset
from bot_deploy.embedder import open_embedder
from bot_deploy.errors import InputError, RunError
from bot_deploy.evaluation.metrics import evaluate
from bot_deploy.evaluation.protocol import embed_crops
from bot_deploy.train import loop, run_files
from bot_deploy.train.compatibility import embed_with_earlier, mean_directions
from bot_deploy.train.distillation import direction_loss
from bot_deploy.train.distributed import World
from bot_deploy.train.state import create_state

ALONE = World(0, 1, "cpu")
RECIPE = dataclasses.replace(
    training_run.RECIPE, arch="resnet18", height=64, width=32, epochs=1, warmup_epochs=0, unlabeled_batch=4
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def data(few_people: Path) -> Any:
    return dataclasses.replace(open_dataset(few_people), query=(), gallery=())


def test_the_directions_are_the_means_of_each_identity() -> None:
    rng = np.random.default_rng(0)
    vectors, identities = rng.normal(size=(7, 3)).astype(np.float32), [9, 2, 9, 5, 2, 9, 40]
    expected = []
    for identity in identities:
        own = [vector for vector, other in zip(vectors, identities, strict=True) if other == identity]
        mean = [sum(float(vector[axis]) for vector in own) / len(own) for axis in range(3)]
        expected.append([value / sum(other**2 for other in mean) ** 0.5 for value in mean])
    found = mean_directions(torch.from_numpy(vectors), torch.tensor(identities))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_loss_is_its_formula() -> None:
    torch.manual_seed(0)
    new, old = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    cosines = [float(a @ b) / (float(a @ a) * float(b @ b)) ** 0.5 for a, b in zip(new, old, strict=True)]
    assert float(direction_loss(new, old)) == pytest.approx(1 - sum(cosines) / 4, rel=1e-12)
    assert float(direction_loss(3 * old, old)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("with_teacher", [False, True])
def test_a_step_adds_the_weighted_loss(with_teacher: bool) -> None:
    torch.manual_seed(2)
    recipe = dataclasses.replace(RECIPE, compatibility_weight=3.0)
    pixels, labels = torch.randn(10, 3, 64, 32), torch.tensor([0, 0, 1, 1, 2, 2])
    if not with_teacher:
        pixels = pixels[:6]
    teacher = torch.nn.functional.normalize(torch.randn(10, 5), dim=1) if with_teacher else None
    earlier = torch.nn.functional.normalize(torch.randn(6, 512), dim=1)
    gradients, compatibility = [], 0.0
    for directions in (None, earlier):
        state = create_state(recipe, 3, "cpu", 5 if with_teacher else 0)
        values = loop.train_step(state, pixels, labels, recipe, ALONE, None, teacher, directions)
        gradients.append(torch.cat([p.grad.ravel() for p in state.model.parameters() if p.grad is not None]))
        compatibility = float(values[6])
    state = create_state(recipe, 3, "cpu")
    loss = direction_loss(state.model.train()(pixels)[1][:6], earlier)
    assert compatibility == pytest.approx(loss.item(), rel=1e-5)
    (3 * loss).backward()
    alone = {name: p.grad for name, p in state.model.named_parameters() if p.requires_grad}
    expected = torch.cat(
        [
            torch.zeros_like(p).ravel() if alone[n] is None else alone[n].ravel()
            for n, p in state.model.named_parameters()
            if n in alone
        ]
    )
    difference = gradients[1] - gradients[0]
    assert float((difference - expected).norm() / expected.norm()) < 1e-3


def test_the_new_model_comes_nearer_to_the_earlier_one(data: Any, checkpoint_file: Path) -> None:
    recipe = dataclasses.replace(
        RECIPE, label_weight=0.0, lr=1e-3, flip_probability=0, padding=0, erasing_probability=0
    )
    earlier = embed_with_earlier(checkpoint_file, data.train)
    state = create_state(recipe, 4, "cpu")
    crops = loop._open_crops(recipe, data, ALONE, loop.Guidance(None, earlier))
    cosines = [loop.train_epoch(state, crops[0], recipe, ALONE).earlier_cosine for _ in range(8)]
    assert cosines[-1] > cosines[0] + 0.2  # type: ignore[operator]


def test_a_run_resumes_and_its_model_can_search(
    data: Any, checkpoint_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=2)
    loop.train(recipe, data, tmp_path / "whole", compatible_with=checkpoint_file)
    earlier = read_contract(checkpoint_file)
    contract = read_contract(tmp_path / "whole" / "model.pt")
    assert contract.compatible_with == (earlier.embedding_space,)
    assert earlier.embedding_space in contract.searchable_spaces
    assert contract.embedding_space not in earlier.searchable_spaces
    assert run_files.read_config(tmp_path / "whole").compatible_with == str(checkpoint_file)
    assert "earlier_cosine" in (tmp_path / "whole" / "metrics.csv").read_text(encoding="utf-8").splitlines()[0]
    save, saved = loop.save_state, 0

    def crash(*arguments: Any) -> None:
        nonlocal saved
        save(*arguments)
        saved += 1
        if saved == 1:
            raise RunError("killed")

    monkeypatch.setattr(loop, "save_state", crash)
    with pytest.raises(RunError, match="killed"):
        loop.train(recipe, data, tmp_path / "stopped", compatible_with=checkpoint_file)
    with pytest.raises(InputError, match="the earlier model"):
        loop.train(recipe, data, tmp_path / "stopped", resume=True)
    loop.train(recipe, data, tmp_path / "stopped", compatible_with=checkpoint_file, resume=True)
    whole, resumed = (checkpoint.load(tmp_path / run / "model.pt").state for run in ("whole", "stopped"))
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
    # A model that follows this one can search the galleries of both.
    loop.train(RECIPE, data, tmp_path / "third", compatible_with=tmp_path / "whole" / "model.pt")
    assert read_contract(tmp_path / "third" / "model.pt").compatible_with == (
        contract.embedding_space,
        earlier.embedding_space,
    )


def test_vectors_of_another_length_are_refused(data: Any, checkpoint_file: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, arch="mobilenet_v2")
    with pytest.raises(InputError, match="has 512 dimensions, but mobilenet_v2 has 1280"):
        loop.train(recipe, data, tmp_path / "run", compatible_with=checkpoint_file)
    assert not (tmp_path / "run").exists()


def test_eval_with_a_gallery_of_another_model(
    checkpoint_file: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(1)
    saved = checkpoint.load(checkpoint_file)
    noise = {
        key: value + 0.05 * torch.randn_like(value) if value.ndim == 4 else value for key, value in saved.state.items()
    }
    changed = dataclasses.replace(saved, state=noise)
    contract = checkpoint.contract_of(changed.build(), 64, 32)
    checkpoint.save(dataclasses.replace(changed, contract=contract), tmp_path / "new.pt")
    dataset = open_dataset(people)
    query = embed_crops(open_embedder(tmp_path / "new.pt"), dataset.query, "query")
    gallery = embed_crops(open_embedder(checkpoint_file), dataset.gallery, "gallery")
    labels = (
        [crop.identity for crop in dataset.query],
        [crop.identity for crop in dataset.gallery],
        [crop.camera for crop in dataset.query],
        [crop.camera for crop in dataset.gallery],
    )
    expected = evaluate(query @ gallery.T, *labels)
    for _ in range(2):  # the second time from the embedding cache, where each model has its own
        with pytest.raises(SystemExit) as exited:
            main(
                [
                    "eval",
                    str(tmp_path / "new.pt"),
                    "--gallery-model",
                    str(checkpoint_file),
                    "--data",
                    str(people),
                    "--json",
                ]
            )
        assert not exited.value.code
        scores = json.loads(capsys.readouterr().out)
        assert scores["mAP"] == pytest.approx(100 * expected.mAP, abs=1e-3)
        assert scores["rank1"] == pytest.approx(100 * float(expected.cmc[0]), abs=1e-3)
