"""The files of a run: config.toml, metrics.csv and curves.png beside the weights."""

from __future__ import annotations

import csv
import dataclasses
import io
import platform
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bot_deploy import __version__
from bot_deploy.datasets import MERGE_SEPARATOR, crops_fingerprint
from bot_deploy.errors import InputError, RunError
from bot_deploy.files import write_atomically

from .recipe import from_values, to_toml, toml_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bot_deploy.datasets import Dataset

    from .recipe import Recipe

TENSORBOARD = "tensorboard"  # a folder
MODEL, STATE, CONFIG, METRICS, CURVES = "model.pt", "state.pt", "config.toml", "metrics.csv", "curves.png"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One epoch: means over its images; accuracy, rank-1 and mAP in percent; None where not measured."""

    epoch: int  # 0: before training
    lr: float | None = None
    id_loss: float | None = None
    triplet_loss: float | None = None
    center_loss: float | None = None
    accuracy: float | None = None  # of the classifier on the training batches
    images_per_second: float | None = None
    seconds: float | None = None
    rank1: float | None = None
    mAP: float | None = None  # noqa: N815 - the field's spelling

    def __str__(self) -> str:
        parts = [f"epoch {self.epoch:3d}"]
        for label, value, form in (
            ("lr", self.lr, ".2e"),
            ("id", self.id_loss, ".3f"),
            ("triplet", self.triplet_loss, ".3f"),
            ("center", self.center_loss, ".1f"),
            ("accuracy", self.accuracy, ".1f"),
            ("images/s", self.images_per_second, ".0f"),
            ("rank-1", self.rank1, ".2f"),
            ("mAP", self.mAP, ".2f"),
        ):
            if value is not None:
                parts.append(f"{label} {value:{form}}")
        return "  ".join(parts)


def open_run(out: Path, recipe: Recipe, dataset: Dataset, *, resume: bool) -> None:
    """Makes the folder `out` and writes its config.toml, so that what cannot be written fails before training.

    Raises:
        InputError: `out` holds a run and `resume` is off, one by another recipe or on other data, or only results.
        RunError: it cannot be written.
    """
    config = out / CONFIG
    text = _config(recipe, dataset)
    begun = (out / STATE).exists()  # a run that failed before its first epoch ended is begun anew
    if (begun or (out / MODEL).exists()) and not resume:
        raise InputError(f"{out} already holds a run; continue it with --resume, or choose another --out")
    if resume and not begun and (out / METRICS).exists():  # written only after the first state.pt
        raise InputError(f"{out}: its {STATE} is gone, so it cannot go on; choose another --out")
    if begun and config.exists() and _decisive(config.read_text(encoding="utf-8")) != _decisive(text):
        raise InputError(f"{out} was started with another recipe or other data ({config}); choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out}: cannot be made ({error.strerror}); choose another --out") from None
    for left in out.glob(".*.tmp"):  # by a run that was killed while it wrote
        left.unlink(missing_ok=True)
    write_text(config, text)


def _config(recipe: Recipe, dataset: Dataset) -> str:
    import torch
    import torchvision

    data = {
        "source": dataset.name,
        "crops": len(dataset.train),
        "fingerprint": crops_fingerprint(dataset.train),
    }
    versions = {
        "bot_deploy": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
    }
    return f"{to_toml(recipe)}\n[data]\n{_lines(data)}\n[versions]\n{_lines(versions)}"


def _lines(values: Mapping[str, object]) -> str:
    return "".join(f"{key} = {toml_value(value)}\n" for key, value in values.items())


def _decisive(config: str) -> dict[str, object]:
    try:
        values = tomllib.loads(config)
        return {**values, "data": values["data"]["fingerprint"], "versions": None}
    except (ValueError, KeyError, TypeError):
        raise InputError(f"the run's {CONFIG} is damaged; choose another --out") from None


def read_config(out: Path) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe of the run in `out`, and what it is trained on."""
    try:
        values = tomllib.loads((out / CONFIG).read_text(encoding="utf-8"))
        sources = tuple(values.pop("data")["source"].split(MERGE_SEPARATOR))
        values.pop("versions")
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{out}: no run to resume; it has no readable {CONFIG}") from None
    return from_values(values), sources


def write(out: Path, rows: Sequence[Row]) -> None:
    """metrics.csv and curves.png of the epochs so far."""
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in dataclasses.fields(Row)], lineterminator="\n")
    table.writeheader()
    table.writerows(dataclasses.asdict(row) for row in rows)
    write_text(out / METRICS, text.getvalue())
    write_atomically(out / CURVES, lambda path: _plot(rows, path))


def log(out: Path, row: Row) -> None:
    """Adds `row` to the run's TensorBoard log; what a killed run logged for later epochs is dropped from view."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(out / TENSORBOARD), purge_step=row.epoch) as writer:
        for key, value in dataclasses.asdict(row).items():
            if key != "epoch" and value is not None:
                writer.add_scalar(key, value, row.epoch)


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _plot(rows: Sequence[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.5), layout="constrained")
    losses, rate, scores = figure.subplots(1, 3)
    trained = [row for row in rows if row.lr is not None]
    epochs = [row.epoch for row in trained]
    losses.plot(epochs, [row.id_loss for row in trained], label="ID")
    losses.plot(epochs, [row.triplet_loss for row in trained], label="triplet")
    losses.set(title="losses", xlabel="epoch")
    losses.legend()
    rate.plot(epochs, [row.lr for row in trained])
    rate.set(title="learning rate", xlabel="epoch", yscale="log")
    scored = [row for row in rows if row.rank1 is not None]
    scores.plot([row.epoch for row in scored], [row.rank1 for row in scored], "o-", label="rank-1")
    scores.plot([row.epoch for row in scored], [row.mAP for row in scored], "o-", label="mAP")
    scores.set(title="query to gallery, %", xlabel="epoch", ylim=(0, 100))
    if scored:
        scores.legend()
    figure.savefig(path, format="png", dpi=100)
