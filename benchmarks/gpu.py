"""Everything that only a GPU can show, in one go: 30 minutes of one H100 are enough.

    python benchmarks/gpu.py --out gpu-results [--only training,runner] [--market Market-1501.zip]

Each part is a function. A part that fails is reported, and the others go on. `--out` gets results.json and the
trainings. `--market` also trains the recipe `strong` on Market-1501 for 120 epochs, which takes hours.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import traceback
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch

from bot_deploy import open_embedder
from bot_deploy.artifacts.contract import Contract
from bot_deploy.backends import nvidia
from bot_deploy.backends.engine_runner import Runner
from bot_deploy.train import cpu_layers, gpu, loop
from bot_deploy.train.data import TrainingSet
from bot_deploy.train.distributed import World
from bot_deploy.train.precision import resolve_precision
from bot_deploy.train.recipe import Recipe
from bot_deploy.train.state import create_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WORLD = World(0, 1, "cuda")
IDENTITIES, IMAGES = 64, 16  # of noise: 16 batches of P16 K4 in an epoch
STEPS = IDENTITIES * IMAGES // 64
SMALL = ("--set", "height=64", "--set", "width=32", "--set", "epochs=2", "--set", "warmup_epochs=0")
TOLERANCE = 1e-4  # of an embedding on CUDA against the CPU


def run(*arguments: object, timeout_s: int = 600) -> subprocess.CompletedProcess[str]:
    """Runs Python with `arguments`; an error is part of the result."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)


def bot(*arguments: object, timeout_s: int = 600) -> str:
    """What `bot` prints on stdout; raises if it fails."""
    done = run("-m", "bot_deploy", *arguments, timeout_s=timeout_s)
    if done.returncode:
        raise RuntimeError(f"bot {' '.join(map(str, arguments))}: exit code {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def environment(_out: Path) -> object:
    """What the machine has."""
    document: object = json.loads(bot("env", "--json"))
    return document


def tests(_out: Path) -> object:
    """The tests of training and backends with this PyTorch; those of the CPU hide the GPU themselves."""
    done = run("-m", "pytest", "-q", "-m", "not slow", "tests/train", "tests/backends", "tests/test_environment.py")
    return {"exit_code": done.returncode, "last_lines": done.stdout.splitlines()[-15:]}


# ---- the runner, with CUDA but without TensorRT ----


class KernelEngine:
    """An engine for `Runner` whose network is the mean colour, computed by PyTorch on the runner's stream."""

    device_memory_size_v2 = 1 << 20

    def __init__(self, contract: Contract) -> None:
        self.contract, self.addresses, self.batch = contract, {}, 0

    def create_execution_context(self, _how: object) -> KernelEngine:
        return KernelEngine(self.contract)

    def set_device_memory(self, address: int, size: int) -> None: ...

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, _name: str, shape: tuple[int, ...]) -> bool:
        self.batch = shape[0]
        return True

    def execute_async_v3(self, stream: int) -> bool:
        with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
            images = _on_gpu(self.addresses["images"], (self.batch, *self.contract.size, 3), "|u1")
            output = _on_gpu(self.addresses["embeddings"], (self.batch, 3), "<f4")
            output.copy_(torch.nn.functional.normalize(images.float().mean((1, 2)), dim=1))
        return True


def _on_gpu(address: int, shape: tuple[int, ...], kind: str) -> torch.Tensor:
    interface = {"data": (address, False), "shape": shape, "typestr": kind, "version": 3, "strides": None}
    tensor: torch.Tensor = torch.as_tensor(SimpleNamespace(__cuda_array_interface__=interface), device="cuda")
    return tensor


def runner(_out: Path) -> object:
    """Batches, padding, graphs and memory of `Runner` on real cuda-bindings, against NumPy."""
    contract = Contract(arch="mean", height=256, width=128, dim=3, fingerprint="0" * 16)
    sidecar = SimpleNamespace(profile=(1, 8, 64), contract=contract, sha256="0" * 64, version="0")
    trt = SimpleNamespace(
        __name__="kernels", ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="USER_MANAGED")
    )
    free = torch.cuda.mem_get_info()[0]
    running = Runner(trt, SimpleNamespace(errors=[]), nvidia.load_cuda(), KernelEngine(contract), sidecar)
    rng, worst, milliseconds = np.random.default_rng(0), 0.0, {}
    for count in (1, 2, 5, 8, 64, 100, 5, 1):
        images = rng.integers(0, 256, (count, 256, 128, 3), dtype=np.uint8)
        expected = images.mean((1, 2), dtype=np.float64)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        worst = max(worst, float(np.abs(running.run(images) - expected).max()))
        milliseconds[count] = _milliseconds(partial(running.run, images))
    images = rng.integers(0, 256, (64, 256, 128, 3), dtype=np.uint8)
    copying = _milliseconds(partial(np.copyto, running.pixels, images))
    graphs = {size: graph is not None for size, graph in running.graphs.items()}
    del running
    left = free - torch.cuda.mem_get_info()[0]
    return {
        "worst_error": worst,
        "graphs": graphs,
        "milliseconds": milliseconds,
        "milliseconds_to_fill_the_pinned_buffer_of_64": copying,  # what two buffers could hide
        "bytes_left": left,
    }


def _milliseconds(call: Callable[[], object], times: int = 30) -> float:
    call()
    took = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        took.append(time.perf_counter() - started)
    return float(np.median(took)) * 1000


# ---- training ----


def training(_out: Path) -> object:
    """Images/s, share of time that the GPU computes, and waits for it in a step: as it is, and without each mending."""
    results = {}
    for arch in ("resnet50", "mobilenet_v2"):
        for name, variant in VARIANTS.items():
            if name == "layers for the CPU" and arch == "resnet50":
                continue  # it has none of them
            with variant():
                results[f"{arch}, {name}"] = _train(
                    arch, on_gpu=name != "crops on the CPU", compile_=name == "compiled"
                )
            print(f"{arch}, {name}: {results[f'{arch}, {name}']}", flush=True)
    return results


@contextlib.contextmanager
def _replaced(place: object, name: str, value: object) -> Iterator[None]:
    before = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)


@contextlib.contextmanager
def _cpu_layers() -> Iterator[None]:
    def create(recipe: Recipe, num_ids: int, device: str) -> Any:
        state = create_state(recipe, num_ids, device)
        cpu_layers.use_cpu_layers(state.model)
        return state

    with _replaced(sys.modules[__name__], "create_state", create):
        yield


VARIANTS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "as it is": contextlib.nullcontext,
    "losses looked at in each step": lambda: _replaced(gpu, "MAX_STEPS_BEHIND", 0),
    "without cuDNN's search": lambda: _replaced(loop, "fixed_shapes", lambda _: contextlib.nullcontext()),
    "layers for the CPU": _cpu_layers,
    "crops on the CPU": contextlib.nullcontext,
    "compiled": contextlib.nullcontext,
}


def noise(recipe: Recipe, *, on_gpu: bool) -> TrainingSet:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (IDENTITIES * IMAGES, recipe.height, recipe.width, 3), dtype=np.uint8)
    crops = torch.from_numpy(pixels)
    labels = np.arange(len(pixels)) // IMAGES
    return TrainingSet((), labels, (recipe.height, recipe.width), crops.cuda() if on_gpu else crops)


def _train(arch: str, *, on_gpu: bool, compile_: bool) -> dict[str, float]:
    recipe = resolve_precision(Recipe(arch=arch, weights="none", compile=compile_), "cuda")
    crops = noise(recipe, on_gpu=on_gpu)
    state = create_state(recipe, IDENTITIES, "cuda")
    network = loop.prepare_network(state.model, recipe, WORLD)

    def epoch() -> float:
        return float(loop.train_epoch(state, crops, recipe, WORLD, network).images_per_second or 0)

    epoch()  # cuDNN's search, and the compiler
    rates = [epoch() for _ in range(3)]
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        epoch()
        torch.cuda.set_sync_debug_mode("default")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        started = time.perf_counter()
        epoch()
        wall = time.perf_counter() - started
    busy = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6 / wall
    return {
        "images_per_second": float(np.median(rates)),
        "busy_share": busy,
        "waits_in_a_step": sum("synchroniz" in str(wait.message) for wait in waits) / STEPS,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def runs(out: Path) -> object:
    """fp16 with its scaler, a resumed run, torchrun of one; train, export and eval on CUDA against the CPU."""
    people = out / "people"
    bot("synthetic", people)
    quick = ("--data", people, "--recipe", "quick", "--weights", "none", *SMALL)
    bot("train", *quick, "--set", "precision=fp16", "--out", out / "fp16")
    bot("train", *quick, "--set", "epochs=1", "--out", out / "resumed")
    bot("train", "--resume", "--out", out / "resumed", "--set", "epochs=2")
    bot("train", *quick, "--out", out / "whole")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "-m", "bot_deploy", "train")
    done = run(*torchrun, *quick, "--out", out / "torchrun")
    if done.returncode:
        raise RuntimeError(f"torchrun: {done.stderr[-2000:]}")
    rows = {name: (out / name / "metrics.csv").read_text().splitlines()[-1] for name in ("fp16", "resumed", "whole")}
    bot("export", out / "whole", "--data", people)
    images = np.random.default_rng(0).integers(0, 256, (33, 64, 32, 3), dtype=np.uint8)
    model, checkpoint = out / "whole" / "model.onnx", out / "whole" / "model.pt"
    expected = open_embedder(model, "cpu").run(images)
    distances = {
        f"{path.suffix} on {device}": float(np.abs(open_embedder(path, device).run(images) - expected).max())
        for path in (model, checkpoint)
        for device in ("cuda", "cpu")
    }
    return {
        "last_rows": rows,
        "eval_on_cuda": json.loads(bot("eval", model, "--data", people, "--device", "cuda", "--json")),
        "eval_on_cpu": json.loads(bot("eval", model, "--data", people, "--device", "cpu", "--json")),
        "largest_differences": distances,
        "within_tolerance": max(distances.values()) <= TOLERANCE,
    }


# ---- running ----


def onnxruntime(_out: Path) -> object:
    """The built-in model on CUDA at batches of 1 to 16: the first call and the next ones, by cuDNN's kind of search."""
    from bot_deploy.backends import onnxruntime as backend

    size = open_embedder("box", "cpu").contract.size
    results: dict[str, dict[int, list[float]]] = {}
    for search in ("EXHAUSTIVE", "HEURISTIC"):  # the first is ONNX Runtime's own choice
        with _replaced(backend, "CUDA_OPTIONS", {**backend.CUDA_OPTIONS, "cudnn_conv_algo_search": search}):
            embedder = open_embedder("box", "cuda", check=False)
        results[search] = {}
        for batch in range(1, 17):
            images = np.random.default_rng(batch).integers(0, 256, (batch, *size, 3), dtype=np.uint8)
            started = time.perf_counter()
            embedder.run(images)
            first = 1000 * (time.perf_counter() - started)
            results[search][batch] = [first, _milliseconds(partial(embedder.run, images))]
    return {"first_and_next_call_ms": results}


def engines(out: Path) -> object:
    """An engine with each installed package, its parity, and the start of a second process with kept kernels."""
    if not any(map(nvidia.is_installed, ("tensorrt", "tensorrt-rtx"))):
        return "neither tensorrt nor tensorrt-rtx is installed"
    document = json.loads(bot("export", "box", "--trt", "--out", out / "engine", "--json"))
    engine = out / "engine" / "model.engine"
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        bot("bench", engine, "--seconds", "0.2", "--batches", "1")
        seconds.append(time.perf_counter() - started)
    return {"artifacts": document["artifacts"], "seconds_of_the_first_and_second_start": seconds}


def bench(out: Path) -> object:
    """`bot bench --json` of all devices."""
    models = ["box", *(out / "engine").glob("model.engine")]
    document: object = json.loads(bot("bench", *models, "--seconds", "2", "--batches", "1,8,16,32,64", "--json"))
    return document


PARTS = {part.__name__: part for part in (environment, runner, training, runs, onnxruntime, engines, bench, tests)}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("gpu-results"), show_default=True)
@click.option("--only", default=",".join(PARTS), show_default=True, help="Parts to run, separated by commas.")
@click.option("--market", type=click.Path(path_type=Path), help="Market-1501, for the paper's recipe; takes hours.")
@click.option("--weights", default="none", show_default=True, help="Initial weights of that run.")
def main(out: Path, only: str, market: Path | None, weights: str) -> None:
    """Run all parts, and print and keep their results."""
    if not torch.cuda.is_available():
        raise click.ClickException("PyTorch finds no GPU; `bot env` shows what this machine has")
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, object] = {}
    for name in only.split(","):
        started = time.perf_counter()
        try:
            results[name] = PARTS[name](out)
        except Exception:  # noqa: BLE001 - the other parts are still worth the GPU's time
            results[name] = {"error": traceback.format_exc()}
        print(f"== {name}, {time.perf_counter() - started:.0f} s\n{json.dumps(results[name], indent=1)}", flush=True)
        (out / "results.json").write_text(json.dumps(results, indent=1))
    if market:
        print(bot("train", "--data", market, "--recipe", "strong", "--weights", weights, "--out", out / "strong",
                  timeout_s=24 * 3600))  # fmt: skip
        bot("export", out / "strong", "--fp16")
        print(bot("eval", out / "strong" / "model.onnx", "--data", market, "--json"))
    failed = [name for name, result in results.items() if isinstance(result, dict) and "error" in result]
    if failed:
        raise click.ClickException(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
