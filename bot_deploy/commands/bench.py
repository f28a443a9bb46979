"""`bot bench`."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from bot_deploy.choices import BACKENDS, DEVICES

if TYPE_CHECKING:
    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.bench import Contender, Result

GPU = ("cuda", "tensorrt")


class Entry(NamedTuple):
    model: Path
    device: str
    contender: Contender


@click.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--device", "devices", multiple=True, type=click.Choice(DEVICES[1:]), help="Repeatable; all that work by default."
)
@click.option("--images", "folder", type=click.Path(path_type=Path), help="Crops to decode; synthetic by default.")
@click.option("--seconds", type=click.FloatRange(min=0), default=2.0, show_default=True, help="For each measurement.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Of the CPU; all that are there by default.")
@click.option("--batches", default="1,8,16,32", show_default=True, help="Batch sizes, with commas between.")
@click.option(
    "--yardstick",
    type=click.Path(path_type=Path),
    help="Checkpoint to compare with; model.pt beside MODEL by default, or else random weights.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def bench(
    models: tuple[Path, ...],
    devices: tuple[str, ...],
    folder: Path | None,
    seconds: float,
    threads: int,
    batches: str,
    yardstick: Path | None,
    as_json: bool,
) -> None:
    """Time each MODEL: latency at batch 1 and throughput, side by side with PyTorch in float32.

    All take turns in one run. "With decoding" is from image files to vectors; decoding and resizing are on one thread.
    """
    import tempfile

    from bot_deploy import bench as benchmark
    from bot_deploy.console import say
    from bot_deploy.machine import available_cores

    sizes = _sizes(batches)
    threads = threads or available_cores()
    entries, left_out = _entries(models, devices, threads)
    with tempfile.TemporaryDirectory() as temporary:
        crops = benchmark.find_crops(folder or _drawn(Path(temporary)))
        yardsticks = _yardsticks(entries, yardstick, threads)
        distinct = list(dict.fromkeys(found for found in yardsticks if found))
        contenders = [*distinct, *(entry.contender for entry in entries)]
        for contender in contenders:
            say(f"{contender.name}: {contender.embedder.backend}")
        results = benchmark.measure(contenders, crops, sizes, seconds)
    result_of = dict(zip(contenders, results, strict=True))
    against = [result_of[found] if found else None for found in (*distinct, *yardsticks)]
    if not as_json:
        click.echo(benchmark.table(results, against))
        return
    document = {
        "machine": {"cpu": _cpu(), "cores": available_cores(), "threads": threads},
        "images": str(folder or "synthetic"),
        "seconds": seconds,
        "rounds": benchmark.ROUNDS,
        "yardsticks": [_document(result_of[found], None) for found in distinct],
        "contenders": [
            {"file": str(entry.model), "device": entry.device, **_document(result, yard)}
            for entry, result, yard in zip(entries, results[len(distinct) :], against[len(distinct) :], strict=True)
        ],
        "left_out": left_out,
    }
    click.echo(jsonlib.dumps(document))


def _document(result: Result, yardstick: Result | None) -> dict[str, object]:
    document: dict[str, object] = {
        "name": result.contender.name,
        "backend": result.contender.embedder.backend,
        "model_only": result.model.to_dict(),
        "with_decoding": result.whole.to_dict(),
    }
    if yardstick:
        document["yardstick"] = yardstick.contender.name
        document["times_the_yardstick"] = {
            "model_only": result.model.times(yardstick.model),
            "with_decoding": result.whole.times(yardstick.whole),
        }
    return document


def _sizes(batches: str) -> list[int]:
    from bot_deploy.errors import InputError

    words = [word.strip() for word in batches.split(",")]
    if not all(word.isdecimal() and 0 < int(word) <= 1024 for word in words):  # noqa: PLR2004 - a million is a slip
        raise InputError(f"--batches {batches}: give sizes from 1 to 1024 with commas between, such as 1,8,16,32")
    return [int(word) for word in words]


def _entries(
    models: tuple[Path, ...], devices: tuple[str, ...], threads: int
) -> tuple[list[Entry], list[dict[str, str]]]:
    """Every model on every device that works for it, and what was left out, with the reason."""
    from bot_deploy.bench import Contender
    from bot_deploy.console import say
    from bot_deploy.embedder import open_embedder
    from bot_deploy.errors import RunError

    entries: list[Entry] = []
    left_out: list[dict[str, str]] = []
    for model in models:
        known = tuple(BACKENDS.get(model.suffix, ["auto"]))  # which leaves it to open_embedder to refuse the file
        # Of several models not every one runs on every device that was asked for.
        for device in [device for device in devices if device in known] or devices or known:
            try:
                embedder = open_embedder(model, device, threads=threads)
            except RunError as error:
                if devices:
                    raise
                say(f"{model} {device}: left out; {error}")
                left_out.append({"file": str(model), "device": device, "reason": str(error)})
                continue
            entries.append(Entry(model, device, Contender(f"{model} {device}", embedder)))
    if not entries:
        raise RunError(f"nothing here can run {' or '.join(map(str, models))}; for the reasons see above")
    return entries, left_out


def _yardsticks(entries: list[Entry], given: Path | None, threads: int) -> list[Contender | None]:
    """For each entry the yardstick that it is compared with, one for all of the same network and place."""
    from bot_deploy.console import say
    from bot_deploy.errors import BotError

    made: dict[object, Contender | None] = {}
    found: list[Contender | None] = []
    for entry in entries:
        contract, on_gpu = entry.contender.embedder.contract, entry.device in GPU
        key = (contract.arch, contract.size, contract.flip, on_gpu)
        if key not in made:
            try:
                made[key] = _yardstick(entry.model, contract, given, threads, on_gpu=on_gpu)
            except ModuleNotFoundError as error:
                say(f"no yardstick: {error.name} is not installed; pip install 'bot-deploy[train]'")
                made[key] = None
            except BotError as error:
                if given:
                    raise
                say(f"no yardstick: {error}")
                made[key] = None
        found.append(made[key])
    return found


def _yardstick(model: Path, contract: Contract, given: Path | None, threads: int, *, on_gpu: bool) -> Contender:
    """Eager PyTorch in float32 doing what `contract` says, with the weights that are at hand."""
    import torch

    from bot_deploy.artifacts import checkpoint
    from bot_deploy.backends.torch import runner
    from bot_deploy.bench import Contender
    from bot_deploy.embedder import Embedder
    from bot_deploy.errors import InputError
    from bot_deploy.model import InferenceGraph, ReID

    network, origin = None, given or model.parent / "model.pt"
    name, weights = str(origin), "eager float32"
    if given or origin.is_file():
        saved = checkpoint.load(origin)
        if (saved.contract.arch, saved.contract.size) == (contract.arch, contract.size):
            network = saved.build()
        elif given:
            raise InputError(f"--yardstick {given}: not of the architecture and image size of {model}")
    if network is None:
        network = ReID(contract.arch, 1, feature=contract.feature)
        name, weights = contract.arch, "eager float32, random weights (as fast as trained ones)"
    device = "cuda" if on_gpu and torch.cuda.is_available() else "cpu"
    torch.set_num_threads(threads)
    run = runner(InferenceGraph(network, contract), device)
    return Contender(f"PyTorch {device} {name}", Embedder(contract, f"PyTorch {torch.__version__}, {weights}", run))


def _drawn(folder: Path) -> Path:
    """A few synthetic crops in `folder`."""
    from bot_deploy.errors import RunError
    from bot_deploy.synthetic import generate_dataset

    try:
        generate_dataset(folder / "crops", train_identities=1, test_identities=1, images_per_camera=2, workers=1)
    except ModuleNotFoundError as error:
        raise RunError(
            f"drawing crops needs {error.name}; `pip install 'bot-deploy[demo]'`, or name crops of yours with --images"
        ) from None
    return folder / "crops"


def _cpu() -> str:
    import platform

    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
