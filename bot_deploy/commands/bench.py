"""`bot bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from bot_deploy.choices import BACKENDS, DEVICES, device_kind

from .model_choice import choose_model, model_name, say_terms
from .options import JSON, OFFLINE, THREADS, Device, NumberRange, model_argument

if TYPE_CHECKING:
    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.bench import Entry, Result

MAX_BATCH = 1024  # a larger number is a slip of the keyboard


class ModelOnDevice(NamedTuple):
    """One of the MODELs on one device, as an entry of the benchmark."""

    path: Path
    device: str
    entry: Entry


@click.command()
@model_argument(required=True, several=True)
@click.option(
    "--device",
    "devices",
    multiple=True,
    type=Device(DEVICES[1:]),
    help="Device to run on; repeatable; default: every device that works.",
)
@click.option(
    "--images", "folder", type=click.Path(path_type=Path), help="Folder of crops to decode; default: synthetic crops."
)
@click.option(
    "--seconds", type=NumberRange(0, 86_400), default=2.0, show_default=True, help="Duration of each measurement."
)
@THREADS
@click.option("--batches", default="1,8,16,32", show_default=True, help="Batch sizes, separated by commas.")
@click.option(
    "--baseline",
    "baseline_path",
    metavar="CKPT",
    type=click.Path(path_type=Path),
    help="Checkpoint to compare with; default: model.pt beside MODEL, or else random weights.",
)
@OFFLINE
@JSON
def bench(
    models: tuple[Path, ...],
    devices: tuple[str, ...],
    folder: Path | None,
    seconds: float,
    threads: int,
    batches: str,
    baseline_path: Path | None,
    as_json: bool,
) -> None:
    """Measure latency at batch 1 and throughput of each MODEL, beside PyTorch in float32.

    The models are measured in turns. "With decoding" is the time from image files to embeddings; one thread decodes
    and resizes.
    """
    import tempfile

    from bot_deploy.bench import ROUNDS, find_readable_images, format_table, measure
    from bot_deploy.console import say, show, show_json
    from bot_deploy.files import require_path
    from bot_deploy.machine import available_cores, cpu_name, thread_count

    sizes = _batch_sizes(batches)
    # Wrong paths are reported before a model is opened.
    if folder:
        require_path(folder, "folder of crops")
    models = tuple(map(choose_model, models))
    baseline_path = baseline_path and choose_model(baseline_path)
    for model in models:
        say_terms(model)
    threads = thread_count(threads)
    opened, left_out = _open_models(models, devices, threads)
    with tempfile.TemporaryDirectory() as temporary:
        crops = find_readable_images(folder or _generate_crops(Path(temporary)))
        baseline_of = _baselines(opened, baseline_path, threads)
        baselines = list(dict.fromkeys(baseline for baseline in baseline_of if baseline))
        entries = [*baselines, *(model.entry for model in opened)]
        for entry in entries:
            say(f"{entry.name}: {entry.embedder.backend}")
        results = measure(entries, crops, sizes, seconds)
    result_of = dict(zip(entries, results, strict=True))
    compared_with = [result_of[baseline] if baseline else None for baseline in baseline_of]
    if not as_json:
        every_baseline = [*(result_of[baseline] for baseline in baselines), *compared_with]
        show(*format_table(results, every_baseline))
        return
    document = {
        "machine": {"cpu": cpu_name(), "cores": available_cores(), "threads": threads},
        "images": str(folder or "synthetic"),
        "seconds": seconds,
        "rounds": ROUNDS,
        "baselines": [_document(result_of[baseline], None) for baseline in baselines],
        "entries": [
            {"file": str(model.path), "device": model.device, **_document(result_of[model.entry], baseline)}
            for model, baseline in zip(opened, compared_with, strict=True)
        ],
        "left_out": left_out,
    }
    show_json(document)


def _document(result: Result, baseline: Result | None) -> dict[str, object]:
    document: dict[str, object] = {
        "name": result.entry.name,
        "backend": result.entry.embedder.backend,
        "model_only": result.model_only.to_dict(),
        "with_decoding": result.with_decoding.to_dict(),
    }
    if baseline:
        document["baseline"] = baseline.entry.name
        document["speedup_over_baseline"] = {
            "model_only": result.model_only.speedup_over(baseline.model_only),
            "with_decoding": result.with_decoding.speedup_over(baseline.with_decoding),
        }
    return document


def _batch_sizes(batches: str) -> list[int]:
    from bot_deploy.errors import InputError

    sizes = [size.strip() for size in batches.split(",")]
    if not all(size.isdecimal() and 0 < int(size) <= MAX_BATCH for size in sizes):
        raise InputError(
            f"--batches {batches}: give sizes from 1 to {MAX_BATCH}, separated by commas, such as 1,8,16,32"
        )
    return [int(size) for size in sizes]


def _open_models(
    models: tuple[Path, ...], devices: tuple[str, ...], threads: int
) -> tuple[list[ModelOnDevice], list[dict[str, str]]]:
    """Opens every model on every device that works for it.

    Also returns file, device and reason of the combinations that were left out.
    """
    from bot_deploy.bench import Entry
    from bot_deploy.console import say
    from bot_deploy.embedder import open_embedder
    from bot_deploy.errors import RunError

    opened: list[ModelOnDevice] = []
    left_out: list[dict[str, str]] = []
    for path in models:
        supported = tuple(BACKENDS.get(path.suffix, ["auto"]))  # with "auto", open_embedder refuses the file
        # With several models, not every model runs on every requested device.
        for device in [device for device in devices if device_kind(device) in supported] or devices or supported:
            try:
                embedder = open_embedder(path, device, threads=threads)
            except RunError as error:
                if devices:
                    raise
                say(f"{path} {device}: left out; {error}")
                left_out.append({"file": str(path), "device": device, "reason": str(error)})
                continue
            opened.append(ModelOnDevice(path, device, Entry(f"{model_name(path)} {device}", embedder)))
    if not opened:
        raise RunError(f"nothing here can run {' or '.join(map(str, models))}; the reasons are above")
    return opened, left_out


def _baselines(models: list[ModelOnDevice], path: Path | None, threads: int) -> list[Entry | None]:
    """The baseline of each model; models of one network on one kind of device share it."""
    from bot_deploy.console import say
    from bot_deploy.errors import BotError

    made: dict[object, Entry | None] = {}
    baselines: list[Entry | None] = []
    for model in models:
        contract = model.entry.embedder.contract
        device = model.device if device_kind(model.device) == "cuda" else "cpu"
        key = (contract.arch, contract.size, contract.flip, device)
        if key not in made:
            try:
                made[key] = _make_baseline(model.path, contract, path, threads, device)
            except ModuleNotFoundError as error:
                say(f"no baseline: {error.name} is not installed; pip install 'bot-deploy[train]'")
                made[key] = None
            except BotError as error:
                if path:
                    raise
                say(f"no baseline: {error}")
                made[key] = None
        baselines.append(made[key])
    return baselines


def _make_baseline(model: Path, contract: Contract, path: Path | None, threads: int, device: str) -> Entry:
    """Eager PyTorch in float32 that fulfils `contract`: with the weights in `path`, beside `model`, or random ones."""
    import torch

    from bot_deploy.artifacts import checkpoint
    from bot_deploy.backends.torch import runner
    from bot_deploy.bench import Entry
    from bot_deploy.embedder import Embedder
    from bot_deploy.errors import InputError
    from bot_deploy.model import InferenceGraph, ReID, find_backbone

    network, source = None, path or model.parent / "model.pt"
    name, weights = str(source), "eager float32"
    if path or source.is_file():
        saved = checkpoint.load(source)
        if (saved.contract.arch, saved.contract.size) == (contract.arch, contract.size):
            network = saved.build()
        elif path:
            raise InputError(f"--baseline {path}: not of the architecture and image size of {model}")
    if network is None:
        try:
            find_backbone(contract.arch)
        except InputError:
            raise InputError(f"{contract.arch} is no network that is trained here") from None
        network = ReID(contract.arch, 1, feature=contract.feature, size=contract.size)
        if network.dim != contract.dim:
            network = ReID(contract.arch, 1, feature=contract.feature, size=contract.size, reduced_dim=contract.dim)
        name, weights = contract.arch, "eager float32, random weights (as fast as trained ones)"
    if not torch.cuda.is_available():
        device = "cpu"
    run = runner(InferenceGraph(network, contract), device, threads)
    return Entry(f"PyTorch {device} {name}", Embedder(contract, f"PyTorch {torch.__version__}, {weights}", run))


def _generate_crops(folder: Path) -> Path:
    """Writes a few synthetic crops below `folder`; returns their folder."""
    from bot_deploy.errors import RunError
    from bot_deploy.synthetic import generate_dataset

    try:
        generate_dataset(folder / "crops", train_identities=1, test_identities=1, images_per_camera=2, workers=1)
    except ModuleNotFoundError as error:
        raise RunError(
            f"synthetic crops need {error.name}; pip install 'bot-deploy[demo]', or give a folder with --images"
        ) from None
    return folder / "crops"
