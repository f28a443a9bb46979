"""`bot models`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import JSON, OFFLINE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bot_deploy.models.listing import ListedModel
    from bot_deploy.models.table import Accuracy

BENCH_BATCH, BENCH_SECONDS = 16, 1.0


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--fetch", is_flag=True, help="Download each NAME into the cache.")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder to download to, for a machine without internet; set BOT_MODELS to the path of the folder there.",
)
@click.option("--bench", is_flag=True, help="Measure images per second of the models in the cache.")
@OFFLINE
@JSON
def models(names: tuple[str, ...], fetch: bool, folder: Path | None, bench: bool, as_json: bool) -> None:
    """List the models and detectors that have a name, or fetch some of them.

    --model, --teacher, --detector, and MODEL of eval, verify, bench, calibrate, adapt and doctor take such a name; a
    network is fetched at its first use. BOT_MODELS is a
    folder of models that is looked up before the cache. With BOT_OFFLINE=1, nothing is fetched.
    """
    from bot_deploy.console import say, show, show_json
    from bot_deploy.errors import InputError
    from bot_deploy.models.listing import list_models

    listed = list_models()
    unknown = [name for name in names if all(name != model.name for model in listed)]
    if unknown:
        raise InputError(f"{unknown[0]}: no name that `bot models` lists")
    if fetch and not names:
        raise InputError("name what to fetch, such as `bot models --fetch retail-0277`", parameter="fetch")
    if folder and not fetch:
        raise InputError("a folder is for what is fetched; give --fetch too", parameter="to")
    if fetch:
        for name in names:
            say(f"{name}: {_fetch(name, folder)}")
        if folder:
            say(f"where this folder is copied to, set BOT_MODELS to its path; here it is {folder.absolute()}")
        listed = list_models([folder] if folder else None)
    if names:
        listed = [model for model in listed if model.name in names]
    speeds = _measure([model for model in listed if bench and model.kind == "model" and model.path])
    if as_json:
        documents = [(model.kind, _document(model, speeds)) for model in listed]
        show_json({f"{kind}s": [row for of, row in documents if of == kind] for kind in ("model", "detector")})
    else:
        show(*_lines(listed, speeds, bench=bench))


def _fetch(name: str, folder: Path | None) -> Path:
    from bot_deploy.errors import InputError
    from bot_deploy.models.fetch import fetch
    from bot_deploy.models.table import NamedModel, find_named_network

    network = find_named_network(name)
    if network is None:
        raise InputError(f"{name}: is here already, and no network that can be fetched", parameter="fetch")
    if isinstance(network, NamedModel):
        from bot_deploy.export.by_name import prepare_model

        return prepare_model(network, folder)
    return fetch(network, folder)


def _measure(models: Sequence[ListedModel]) -> dict[str, float]:
    """The images per second of each of `models` that can run here; the others are named."""
    from bot_deploy.console import say
    from bot_deploy.errors import BotError, on_one_line

    speeds = {}
    for model in models:
        try:
            speeds[model.name] = _images_per_second(model.path)
        except (BotError, ModuleNotFoundError) as error:  # one model that cannot run does not end the list
            say(f"{model.name}: cannot be measured ({on_one_line(error)})")
    return speeds


def _images_per_second(path: Path | None) -> float:
    """The speed of the model alone, on noise."""
    import numpy as np

    from bot_deploy.bench import time_in_turns
    from bot_deploy.embedder import open_embedder

    embedder = open_embedder(path)
    crops = np.random.default_rng(0).integers(0, 256, (BENCH_BATCH, *embedder.contract.size, 3), dtype=np.uint8)
    return BENCH_BATCH / float(np.median(time_in_turns([lambda: embedder.run(crops)], BENCH_SECONDS)[0]))


def _document(model: ListedModel, speeds: Mapping[str, float]) -> dict[str, object]:
    from dataclasses import asdict

    return {
        **asdict(model),
        **(_contract_document(model.path) if model.path and not model.input else {}),
        "path": str(model.path) if model.path else None,
        "images_per_second": speeds.get(model.name),
    }


def _contract_document(path: Path) -> dict[str, object]:
    """What the contract of a model file says about dimensions and input; nothing of a file that cannot be read."""
    from dataclasses import asdict

    from bot_deploy.artifacts import read_contract
    from bot_deploy.errors import BotError
    from bot_deploy.models.table import NetworkInput

    try:
        contract = read_contract(path)
    except (BotError, ModuleNotFoundError):  # one damaged file does not end the list
        return {}
    taken = NetworkInput(contract.height, contract.width, contract.color, "0-1", contract.mean, contract.std)
    return {"dim": contract.dim, "input": asdict(taken)}


def _lines(listed: Sequence[ListedModel], speeds: Mapping[str, float], *, bench: bool) -> list[str]:
    """A table, and what its signs mean."""
    header = ("name", "MB", "licence", "Market-1501", "other sets", "cached", *(("images/s",) if bench else ()))
    rows = [header, *(_cells(model, speeds)[: len(header)] for model in listed)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, "rank-1 / mAP in percent; *: as its authors publish it, not measured here"]


def _cells(model: ListedModel, speeds: Mapping[str, float]) -> tuple[str, ...]:
    from bot_deploy.models.table import MARKET

    on_market = [_figures(accuracy) for accuracy in model.measured if accuracy.data == MARKET]
    if not on_market and model.published:
        on_market = [f"{_figures(model.published)} *"]
    others = [f"{accuracy.data} {_figures(accuracy)}" for accuracy in model.measured if accuracy.data != MARKET]
    speed = speeds.get(model.name)
    return (
        model.name,
        f"{model.bytes / 1e6:.1f}",
        model.licence or "-",
        "".join(on_market) or "-",
        ", ".join(others) or "-",
        "yes" if model.cached else "no",
        f"{speed:.0f}" if speed else "-",
    )


def _figures(accuracy: Accuracy) -> str:
    return f"{accuracy.rank1} / {accuracy.mAP}"
