"""`bot train` and `bot ablate` up to the library's functions: recipes, folders and the allocator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bot_deploy import cli
from bot_deploy.train import ablation, allocator, loop
from bot_deploy.train.recipe import Recipe, load_recipe, to_toml


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[object, ...]]:
    """The calls of `train`, `run_ablation` and `keep_freed_memory`, which do nothing."""
    made: list[tuple[object, ...]] = []

    def train(recipe: Recipe, _: object, out: Path, *, resume: bool) -> Path:
        made.append(("train", recipe, out, resume))
        return out / "model.pt"

    def run_ablation(recipe: Recipe, variants: list[ablation.Variant], seeds: int, *rest: object) -> None:
        made.append(("ablate", recipe, [variant.name for variant in variants], seeds))
        out = rest[-1]
        assert isinstance(out, Path)
        out.mkdir(parents=True)
        (out / "table.md").write_text("the table")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(ablation, "run_ablation", run_ablation)
    monkeypatch.setattr(allocator, "keep_freed_memory", lambda: made.append(("keep_freed_memory",)))
    monkeypatch.chdir(tmp_path)
    return made


def run(*arguments: object) -> None:
    with pytest.raises(SystemExit) as finished:
        cli.main([str(argument) for argument in arguments])
    assert finished.value.code == 0


def test_train_takes_a_recipe_file(calls: list[tuple[object, ...]], people: Path) -> None:
    Path("my.toml").write_text('arch = "resnet18"\n')
    run("train", "--data", people, "--recipe", "my.toml", "--set", "epochs=3")
    assert calls == [
        ("keep_freed_memory",),
        ("train", Recipe(arch="resnet18", epochs=3), Path("runs/my"), False),
    ]


def test_train_takes_the_config_of_a_run(calls: list[tuple[object, ...]], people: Path) -> None:
    config = Path("runs/first/config.toml")
    config.parent.mkdir(parents=True)
    config.write_text(to_toml(Recipe(seed=9)))
    run("train", "--data", people, "--recipe", config)
    assert calls[-1] == ("train", Recipe(seed=9), Path("runs/first-2"), False)


def test_a_wrong_recipe_names_file_key_and_option(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.toml").write_text("epochs = 0\n")
    with pytest.raises(SystemExit) as finished:
        cli.main(["train", "--data", str(people), "--recipe", str(tmp_path / "my.toml")])
    assert finished.value.code == 2
    assert "my.toml: epochs must be above 0, not 0 (--recipe)" in capsys.readouterr().err


def test_ablate_takes_a_recipe_file(calls: list[tuple[object, ...]], people: Path) -> None:
    Path("my.toml").write_text(to_toml(load_recipe("strong")))
    run("ablate", "--data", people, "--recipe", "my.toml", "--steps", "1,+REA", "--seeds", 2)
    assert calls == [("keep_freed_memory",), ("ablate", load_recipe("strong"), ["Baseline-S", "+REA"], 2)]
