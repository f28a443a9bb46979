"""The files of a run besides its weights: config.toml, metrics.csv, curves.png and the TensorBoard log."""

from __future__ import annotations

import csv
import dataclasses
import io
import platform
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from bot_deploy import __version__
from bot_deploy.choices import MERGE_SEPARATOR
from bot_deploy.datasets import crops_fingerprint
from bot_deploy.errors import InputError, RunError
from bot_deploy.files import write_atomically
from bot_deploy.models.cache import find_model
from bot_deploy.runs import CHECKPOINT_NAME
from bot_deploy.telemetry import without_telemetry

from .recipe import RUN_TABLES, load_recipe, read_toml, recipe_from_values, to_toml, toml_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bot_deploy.datasets import Dataset

    from .compatibility import EarlierTargets
    from .distillation import TeacherTargets
    from .recipe import Recipe

STATE_NAME, CONFIG_NAME, METRICS_NAME, CURVES_NAME = "state.pt", "config.toml", "metrics.csv", "curves.png"
TENSORBOARD = "tensorboard"  # a folder


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """What was measured in one epoch: means over its images, percentages, and None for what was not measured."""

    epoch: int  # 0: before training
    lr: float | None = None
    id_loss: float | None = None
    triplet_loss: float | None = None
    center_loss: float | None = None
    relation_loss: float | None = None  # with a teacher, as the next
    teacher_cosine: float | None = None  # of the projected embedding and the teacher's
    earlier_cosine: float | None = None  # with an earlier model: of the embedding and the direction it sets
    people: int | None = None  # without labels: the people found, and the percentage of crops that show one of them
    crops_used: float | None = None
    accuracy: float | None = None  # percent, of the classifier on the training batches
    images_per_second: float | None = None
    seconds: float | None = None
    rank1: float | None = None  # percent
    mAP: float | None = None  # noqa: N815 - percent; the field's spelling

    def __str__(self) -> str:
        parts = [f"epoch {self.epoch:3d}"]
        for label, value, form in (
            ("people", self.people, "d"),
            ("crops used", self.crops_used, ".1f"),
            ("lr", self.lr, ".2e"),
            ("id", self.id_loss, ".3f"),
            ("triplet", self.triplet_loss, ".3f"),
            ("center", self.center_loss, ".1f"),
            ("relation", self.relation_loss, ".4f"),
            ("teacher cosine", self.teacher_cosine, ".3f"),
            ("earlier cosine", self.earlier_cosine, ".3f"),
            ("accuracy", self.accuracy, ".1f"),
            ("images/s", self.images_per_second, ".0f"),
            ("rank-1", self.rank1, ".2f"),
            ("mAP", self.mAP, ".2f"),
        ):
            if value is not None:
                parts.append(f"{label} {value:{form}}")
        return "  ".join(parts)


def open_run(
    out: Path,
    recipe: Recipe,
    dataset: Dataset,
    *,
    resume: bool,
    targets: TeacherTargets | None = None,
    earlier: EarlierTargets | None = None,
    labels_are_found: bool = False,
) -> None:
    """Makes the folder `out` and writes its config.toml, so that a folder that cannot be written fails before training.

    Raises:
        InputError: `out` holds a run and `resume` is off, a run with another recipe or other data, or results only.
        RunError: `out` cannot be written.
    """
    config = out / CONFIG_NAME
    text = _config(recipe, dataset, targets, earlier, labels_are_found=labels_are_found)
    has_state = (out / STATE_NAME).exists()  # a run that failed in its first epoch has none, and starts again
    if (has_state or (out / CHECKPOINT_NAME).exists()) and not resume:
        raise InputError(f"{out} already holds a run; resume it, or choose another folder", parameter="out")
    if resume and not has_state and (out / METRICS_NAME).exists():  # metrics.csv is written after the first state.pt
        raise InputError(
            f"{out}: {STATE_NAME} is missing, so the run cannot be resumed; choose another folder", parameter="out"
        )
    if has_state and config.exists():
        _check_continues(out, _comparable(config), _comparable(config, text))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out}: cannot be created ({error.strerror}); choose another folder", parameter="out") from None
    for unfinished in out.glob(".*.tmp"):  # a run was killed while it wrote them
        unfinished.unlink(missing_ok=True)
    write_text(config, text)


def _check_continues(out: Path, before: dict[str, object], now: dict[str, object]) -> None:
    """Raises InputError unless a run with the values `before` can go on with those of `now`."""
    changed = [key for key in now if before.get(key) != now[key] and not _may_change(key, before.get(key), now[key])]
    if changed == ["data"]:
        raise InputError(
            f"{out} was started on other data: the names, identities or cameras of the training crops differ, or the "
            "teacher, the earlier model or the unlabelled crops; name the same ones, which may have moved, or choose "
            "another folder",
            parameter="data",
        )
    if changed:
        differences = ", ".join(f"{key}={before.get(key)!r} (now {now[key]!r})" for key in changed if key != "data")
        raise InputError(
            f"{out} was started with another recipe: {differences}; when a run goes on, eval_every may change "
            "and epochs may grow; choose another folder",
            parameter="out",
        )


def _may_change(key: str, before: object, now: object) -> bool:
    if key == "epochs" and isinstance(before, int) and isinstance(now, int):
        return now > before
    return key == "eval_every"


def weights_file(source: str) -> Path:
    """The file of initial weights `source`: itself, the checkpoint in the folder of a run, or the built-in model.

    Raises:
        InputError: there is no such file.
    """
    path = find_model(source)
    if path.is_dir():
        path /= CHECKPOINT_NAME
        if not path.is_file():
            raise InputError(
                f"{source}: a folder without {CHECKPOINT_NAME}; name a run, or a file of weights", parameter="weights"
            )
    if not path.is_file():
        raise InputError(
            f"{source}: no such file; give a file, a run's folder, box, imagenet or none", parameter="weights"
        )
    return path


def _config(
    recipe: Recipe,
    dataset: Dataset,
    targets: TeacherTargets | None,
    earlier: EarlierTargets | None,
    *,
    labels_are_found: bool,
) -> str:
    import torch
    import torchvision

    data = {
        "sources": dataset.sources,
        "crops": len(dataset.train),
        "fingerprint": crops_fingerprint(dataset.train),
    }
    if targets:
        data |= {
            "teacher": targets.teacher,
            "unlabelled": targets.unlabeled_sources,
            "unlabelled_crops": len(targets.unlabeled_crops),
            "guidance_fingerprint": targets.fingerprint,
        }
    if earlier:
        data |= {"compatible_with": earlier.model, "earlier_fingerprint": earlier.fingerprint}
    if labels_are_found:
        data |= {"labels": "found"}
    versions = {
        "bot_deploy": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
    }
    return f"{to_toml(recipe)}\n[data]\n{_lines(data)}\n[versions]\n{_lines(versions)}"


def _lines(values: Mapping[str, object]) -> str:
    return "".join(f"{key} = {toml_value(value)}\n" for key, value in values.items())


def _comparable(config: Path, text: str | None = None) -> dict[str, object]:
    """The values of the file `config`, or of `text`, that have to be the same for a run to be resumed."""
    try:
        values = read_toml(config) if text is None else tomllib.loads(text)
        recipe = {key: value for key, value in values.items() if key not in RUN_TABLES}
        parts = ("guidance_fingerprint", "earlier_fingerprint")
        fingerprint = values["data"]["fingerprint"] + "".join(values["data"].get(part, "") for part in parts)
        return {**dataclasses.asdict(recipe_from_values(recipe)), "data": fingerprint}
    except (InputError, KeyError, TypeError):
        raise InputError(f"the run's {CONFIG_NAME} is damaged; choose another folder", parameter="out") from None


@dataclass(frozen=True)
class RunConfig:
    """What a run's config.toml says."""

    recipe: Recipe
    sources: tuple[str, ...]  # of the data
    teacher: str | None = None  # path of its file
    unlabelled: tuple[str, ...] = ()  # sources
    compatible_with: str | None = None  # path of the earlier model's file
    labels_are_found: bool = False  # the data have no labels


def read_config(out: Path) -> RunConfig:
    """The recipe of the run in `out`, the sources of its data, and its teacher."""
    config = out / CONFIG_NAME
    try:
        data = read_toml(config)["data"]
        # Older versions wrote all sources as one string.
        sources = data["sources"] if "sources" in data else data["source"].split(MERGE_SEPARATOR)
        sources = msgspec.convert(sources, tuple[str, ...])
        unlabelled = msgspec.convert(data.get("unlabelled", []), tuple[str, ...])
        teacher = msgspec.convert(data.get("teacher"), str | None)
        earlier = msgspec.convert(data.get("compatible_with"), str | None)
    except (InputError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{out}: no run to resume; it has no readable {CONFIG_NAME}", parameter="out") from None
    return RunConfig(load_recipe(config), sources, teacher, unlabelled, earlier, data.get("labels") == "found")


def write_metrics(out: Path, epochs: Sequence[EpochMetrics]) -> None:
    """Writes metrics.csv and curves.png of the epochs so far."""
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in dataclasses.fields(EpochMetrics)], lineterminator="\n")
    table.writeheader()
    table.writerows(dataclasses.asdict(epoch) for epoch in epochs)
    write_text(out / METRICS_NAME, text.getvalue())
    write_atomically(out / CURVES_NAME, lambda path: _plot(epochs, path))


def log_to_tensorboard(out: Path, metrics: EpochMetrics) -> None:
    """Adds an epoch to the run's TensorBoard log; TensorBoard hides what a killed run logged for later epochs."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(out / TENSORBOARD), purge_step=metrics.epoch) as writer:
        for key, value in dataclasses.asdict(metrics).items():
            if key != "epoch" and value is not None:
                writer.add_scalar(key, value, metrics.epoch)


def write_text(path: Path, text: str) -> None:
    """Writes `path` atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _plot(epochs: Sequence[EpochMetrics], path: Path) -> None:
    with without_telemetry():
        from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.5), layout="constrained")
    losses, lr, scores = figure.subplots(1, 3)
    trained = [epoch for epoch in epochs if epoch.lr is not None]
    numbers = [epoch.epoch for epoch in trained]
    losses.plot(numbers, [epoch.id_loss for epoch in trained], label="ID")
    losses.plot(numbers, [epoch.triplet_loss for epoch in trained], label="triplet")
    losses.set(title="losses", xlabel="epoch")
    losses.legend()
    lr.plot(numbers, [epoch.lr for epoch in trained])
    lr.set(title="learning rate", xlabel="epoch", yscale="log")
    evaluated = [epoch for epoch in epochs if epoch.rank1 is not None]
    scores.plot([epoch.epoch for epoch in evaluated], [epoch.rank1 for epoch in evaluated], "o-", label="rank-1")
    scores.plot([epoch.epoch for epoch in evaluated], [epoch.mAP for epoch in evaluated], "o-", label="mAP")
    scores.set(title="query to gallery, %", xlabel="epoch", ylim=(0, 100))
    if evaluated:
        scores.legend()
    figure.savefig(path, format="png", dpi=100)
