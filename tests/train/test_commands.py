"""`bot train` and `bot ablate` up to the library's functions: recipes, folders and the settings of the process."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from helpers.commands import Printed, run_in_turn

from bot_deploy import cli
from bot_deploy.train import ablation, cpu_settings, loop
from bot_deploy.train.recipe import Recipe, load_recipe, to_toml


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[object, ...]]:
    """The calls of `train`, `run_ablation` and `speed_up_cpu`, which do nothing."""
    made: list[tuple[object, ...]] = []

    def train(recipe: Recipe, _: object, out: Path, *, resume: bool, **distillation: object) -> Path:
        assert not any(distillation.values())
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
    monkeypatch.setattr(cpu_settings, "speed_up_cpu", lambda: made.append(("speed_up_cpu",)))
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
        ("speed_up_cpu",),
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
    run("ablate", "--data", people, "--recipe", "my.toml", "--rows", "1,+REA", "--seeds", 2)
    assert calls == [("speed_up_cpu",), ("ablate", load_recipe("strong"), ["Baseline-S", "+REA"], 2)]


def test_resume_with_more_epochs_and_moved_data_keeps_the_other_settings(
    calls: list[tuple[object, ...]], people: Path, tmp_path: Path
) -> None:
    run_folder = tmp_path / "runs" / "first"
    run_folder.mkdir(parents=True)
    own = Recipe(arch="resnet18", lr=1e-3, epochs=20)
    (run_folder / "config.toml").write_text(to_toml(own) + '[data]\nsources = ["gone"]\n[versions]\n')
    run("train", "--resume", "--data", people, "--set", "epochs=40")
    assert calls[-1] == ("train", dataclasses.replace(own, epochs=40), Path("runs/first"), True)
    run("train", "--resume", "--out", run_folder, "--data", people)
    assert calls[-1] == ("train", own, run_folder, True)


def test_train_prints_what_it_understood(
    calls: list[tuple[object, ...]], people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("train", "--data", people)
    lines = capsys.readouterr().err.splitlines()
    assert calls
    assert any(line.startswith("train: ") and " identities from " in line for line in lines), lines
    assert any(" -> " in line for line in lines)


WRONG_PATHS = [
    (("train", "--data", "gone"), "gone: no such folder or file"),
    (("train", "--weights", "gone.pth"), "gone.pth: no such file; give a file"),
    (("train", "--weights", "."), ".: a folder without model.pt"),
    (("ablate", "--test", "gone"), "gone: no such folder or file"),
    (("export", "gone"), "gone: no such run or checkpoint"),
    (("export", ".", "--data", "gone"), "gone: no such folder or file"),
    (("export", ".", "--out", "x.onnx"), "x.onnx: name a folder for the model files"),
    (("export", ".", "--out", "x.ENGINE"), "x.ENGINE: name a folder for the model files"),
    (("calibrate", "gone.onnx", "--data", "nowhere"), "nowhere: no such folder or file"),
    (("eval", "gone.onnx"), "gone.onnx: no such model file"),
    (("match", "gone.jpg", ".", "--model", "gone.onnx"), "gone.onnx: no such model file"),
    (
        ("match", "gone.jpg", "gone", "--model", "gone.onnx"),
        "gone: no such folder; the gallery is a folder of crops",
    ),
]


@pytest.fixture(scope="module")
def of_wrong_paths(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], tuple[Path, Printed]]:
    """The folder of each command of WRONG_PATHS, and what the command printed."""
    folders = {arguments: tmp_path_factory.mktemp("wrong") for arguments, _ in WRONG_PATHS}
    printed = run_in_turn([(folder, list(words)) for words, folder in folders.items()], without=("torch",))
    return dict(zip(folders, zip(folders.values(), printed, strict=True), strict=True))


@pytest.mark.parametrize(("arguments", "message"), WRONG_PATHS)
def test_wrong_paths_are_reported_before_torch_is_imported(
    arguments: tuple[str, ...], message: str, of_wrong_paths: dict[tuple[str, ...], tuple[Path, Printed]]
) -> None:
    folder, done = of_wrong_paths[arguments]
    assert done.err.startswith(f"bot: {message}"), done.err
    assert (done.code, done.out) == (2, "")
    assert not list(folder.iterdir())


@pytest.mark.parametrize(("option", "key"), [("--epochs", "epochs"), ("--label-smoothing", "label_smoothing")])
def test_an_option_that_is_a_key_gets_a_hint(option: str, key: str) -> None:
    result = CliRunner().invoke(cli.bot, ["train", option, "4"])
    assert result.exit_code == 2
    assert f"No such option '{option}'; keys of the recipe are set by --set {key}=VALUE" in result.output
