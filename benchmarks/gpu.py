"""Everything that only a GPU can show, in one go: 30 minutes of one H100 are enough.

    python benchmarks/gpu.py --out gpu-results [--only training,runner] [--market Market-1501.zip]
    python benchmarks/gpu.py --dry-run

Each part is a function. A part that fails is reported, and the others go on. `--out` gets results.json and the
trainings. `--market` also trains the recipe `strong` on Market-1501 for 120 epochs, which takes hours.

`--dry-run` needs no GPU: each part does on the CPU, in small, what it can, and says what it leaves out. Its numbers
mean nothing; it shows that the script is ready.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

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

    Put = Callable[[int, Callable[[], None]], None]

IDENTITIES, IMAGES = 64, 16  # of noise: 16 batches of P16 K4 in an epoch
SMALL = ("--set", "height=64", "--set", "width=32", "--set", "epochs=2", "--set", "warmup_epochs=0")
PARITY_FAILED = 3  # exit code
TOLERANCE = 1e-4  # of an embedding on CUDA against the CPU


@dataclass(frozen=True)
class Setting:
    """Where the parts run."""

    out: Path
    dry: bool  # without a GPU

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"


def run(*arguments: object, timeout_s: int = 600) -> subprocess.CompletedProcess[str]:
    """Runs Python with `arguments`; an error is part of the result."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)


def bot(*arguments: object, timeout_s: int = 600, fails_parity: bool = False) -> str:
    """What `bot` prints on stdout; raises if it fails. With `fails_parity`, a rejected file is no failure."""
    done = run("-m", "bot_deploy", *arguments, timeout_s=timeout_s)
    if done.returncode and not (fails_parity and done.returncode == PARITY_FAILED):
        raise RuntimeError(f"bot {' '.join(map(str, arguments))}: exit code {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def environment(_setting: Setting) -> object:
    """What the machine has."""
    document: object = json.loads(bot("env", "--json"))
    return document


def tests(setting: Setting) -> object:
    """The tests of training and backends with this PyTorch; those of the CPU hide the GPU themselves."""
    only_found = ["--collect-only"] if setting.dry else []
    folders = ("tests/train", "tests/backends", "tests/test_environment.py")
    done = run("-m", "pytest", "-q", "-m", "not slow", *only_found, *folders)
    return {"exit_code": done.returncode, "last_lines": done.stdout.splitlines()[-15:]}


# ---- the runner, with CUDA but without TensorRT ----


class KernelEngine:
    """An engine for `Runner` whose network is the mean colour, computed by PyTorch on the runner's stream.

    `put(stream, work)` puts work on a stream; `device` is where the memory is.
    """

    device_memory_size_v2 = 1 << 20

    def __init__(self, contract: Contract, put: Put, device: str) -> None:
        self.contract, self.put, self.device = contract, put, device
        self.addresses: dict[str, int] = {}
        self.batch = 0

    def create_execution_context(self, _how: object) -> KernelEngine:
        return KernelEngine(self.contract, self.put, self.device)

    def set_device_memory(self, address: int, size: int) -> None: ...

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, _name: str, shape: tuple[int, ...]) -> bool:
        self.batch = shape[0]
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.put(stream, partial(self._mean_colour, self.batch))
        return True

    def _mean_colour(self, batch: int) -> None:
        images = _tensor(self.addresses["images"], (batch, *self.contract.size, 3), "|u1", self.device)
        output = _tensor(self.addresses["embeddings"], (batch, 3), "<f4", self.device)
        output.copy_(torch.nn.functional.normalize(images.float().mean((1, 2)), dim=1))


def _tensor(address: int, shape: tuple[int, ...], kind: str, device: str) -> torch.Tensor:
    """The memory at `address` on `device`."""
    if device == "cpu":
        memory = (ctypes.c_uint8 * (math.prod(shape) * int(kind[-1]))).from_address(address)
        return torch.from_numpy(np.frombuffer(memoryview(memory), kind).reshape(shape))
    interface = {"data": (address, False), "shape": shape, "typestr": kind, "version": 3, "strides": None}
    return torch.as_tensor(SimpleNamespace(__cuda_array_interface__=interface), device=device)


def _put_on_stream(stream: int, work: Callable[[], None]) -> None:
    with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
        work()


def runner(setting: Setting) -> object:
    """Batches, padding, graphs and memory of `Runner` on real cuda-bindings, against NumPy."""
    height, width = (16, 8) if setting.dry else (256, 128)
    contract = Contract(arch="mean", height=height, width=width, dim=3, fingerprint="0" * 16)
    sidecar = SimpleNamespace(profile=(1, 8, 64), contract=contract, sha256="0" * 64, version="0")
    trt = SimpleNamespace(
        __name__="kernels", ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="USER_MANAGED")
    )
    cuda: Any
    if setting.dry:
        from helpers.fake_cuda import MODEL
        from helpers.fake_cuda import Gpu as FakeGpu

        cuda, gpu_model = FakeGpu(memory=1 << 30, seed=0), MODEL
        engine = KernelEngine(contract, lambda stream, work: cuda._put("run", work, stream), "cpu")  # noqa: SLF001
    else:
        cuda, gpu_model = nvidia.load_cuda(), nvidia.find_gpu()
        engine = KernelEngine(contract, _put_on_stream, "cuda")
        free = torch.cuda.mem_get_info()[0]
    running = Runner(trt, SimpleNamespace(errors=[]), cuda, engine, cast("Any", sidecar), gpu_model)
    rng, worst, milliseconds = np.random.default_rng(0), 0.0, {}
    # 512 takes turns in two buffers: eight batches of 64, which are copied while others are computed.
    for count in (1, 2, 5, 8, 64, 100, 5, 1, 512):
        images = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
        expected = images.mean((1, 2), dtype=np.float64)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        worst = max(worst, float(np.abs(running.run(images) - expected).max()))
        milliseconds[count] = _milliseconds(partial(running.run, images))
    images = rng.integers(0, 256, (64, height, width, 3), dtype=np.uint8)
    filling = _milliseconds(partial(np.copyto, running.slots[0].pixels, images))
    graphs = {size: graph is not None for size, graph in running.slots[0].graphs.items()}
    del running
    return {
        "worst_error": worst,
        "graphs": graphs,
        "milliseconds": milliseconds,
        "milliseconds_to_fill_a_buffer_of_64": filling,
        # Near 1 where copies are the slower part: 512 images then take as long as their copies alone.
        "time_of_512_over_8_times_64": milliseconds[512] / (8 * milliseconds[64]),
        "bytes_left": "not without a GPU" if setting.dry else free - torch.cuda.mem_get_info()[0],
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


def training(setting: Setting) -> object:
    """Images/s, share of time that the GPU computes, and waits for it in a step: as it is, and without each mending."""
    results: dict[str, object] = {}
    for arch in ("mobilenet_v2",) if setting.dry else ("resnet50", "mobilenet_v2"):
        for name, variant in VARIANTS.items():
            if name == "layers for the CPU" and arch == "resnet50":
                continue  # it has none of them
            if name == "compiled" and setting.dry:
                results[f"{arch}, {name}"] = "left out without a GPU: the compiler takes minutes"
                continue
            with variant():
                results[f"{arch}, {name}"] = _train(
                    arch, setting, on_gpu=name != "crops on the CPU", compile_=name == "compiled"
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
    original = create_state

    def create(recipe: Recipe, num_ids: int, device: str) -> Any:
        state = original(recipe, num_ids, device)
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


def noise(recipe: Recipe, setting: Setting, *, on_gpu: bool) -> TrainingSet:
    people, images = (16, 4) if setting.dry else (IDENTITIES, IMAGES)
    size = (people * images, recipe.height, recipe.width, 3)
    crops = torch.from_numpy(np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8))
    labels = np.arange(len(crops)) // images
    return TrainingSet((), labels, (recipe.height, recipe.width), crops.to(setting.device) if on_gpu else crops)


def _train(arch: str, setting: Setting, *, on_gpu: bool, compile_: bool) -> dict[str, float]:
    recipe = resolve_precision(Recipe(arch=arch, weights="none", compile=compile_), setting.device)
    if setting.dry:
        recipe = replace(recipe, height=32, width=16)
    crops = noise(recipe, setting, on_gpu=on_gpu)
    state = create_state(recipe, IDENTITIES, setting.device)
    world = World(0, 1, setting.device)
    network = loop.prepare_network(state.model, recipe, world)

    def epoch() -> float:
        return float(loop.train_epoch(state, crops, recipe, world, network).images_per_second or 0)

    epoch()  # cuDNN's search, and the compiler
    rates = [epoch() for _ in range(1 if setting.dry else 3)]
    with warnings.catch_warnings(record=True) as waits, _warnings_of_waits(setting):
        warnings.simplefilter("always")
        epoch()
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CPU if setting.dry else activity.CUDA]) as profile:
        started = time.perf_counter()
        epoch()
        wall = time.perf_counter() - started
    busy = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6 / wall
    return {
        "images_per_second": float(np.median(rates)),
        "busy_share": busy,
        "waits_in_a_step": sum("synchroniz" in str(wait.message) for wait in waits) / (len(crops.labels) // 64),
        "peak_gib": 0.0 if setting.dry else torch.cuda.max_memory_allocated() / 2**30,
    }


@contextlib.contextmanager
def _warnings_of_waits(setting: Setting) -> Iterator[None]:
    """Lets PyTorch warn where it waits for the GPU."""
    if setting.dry:
        yield
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def runs(setting: Setting) -> object:
    """fp16 with its scaler, a resumed run, torchrun of one; train, export and eval on CUDA against the CPU."""
    out, people = setting.out, setting.out / "people"
    few = ("--train-identities", 16, "--test-identities", 4, "--images-per-camera", 2) if setting.dry else ()
    bot("synthetic", people, *few)
    quick = ("--data", people, "--recipe", "quick", "--weights", "none", *SMALL)
    precision = "fp32" if setting.dry else "fp16"  # FP16 needs a GPU
    bot("train", *quick, "--set", f"precision={precision}", "--out", out / "fp16")
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
        for device in (setting.device, "cpu")
    }
    return {
        "last_rows": rows,
        "eval_on_cuda": json.loads(bot("eval", model, "--data", people, "--device", setting.device, "--json")),
        "eval_on_cpu": json.loads(bot("eval", model, "--data", people, "--device", "cpu", "--json")),
        "largest_differences": distances,
        "within_tolerance": max(distances.values()) <= TOLERANCE,
    }


# ---- running ----


def onnxruntime(setting: Setting) -> object:
    """The built-in model on CUDA at batches of 1 to 16: the first call and the next ones, by cuDNN's kind of search."""
    from bot_deploy.backends import onnxruntime as backend

    size = open_embedder("box", "cpu").contract.size
    results: dict[str, dict[int, list[float]]] = {}
    for search in ("HEURISTIC", "EXHAUSTIVE", "DEFAULT"):  # the first is ours, the second ONNX Runtime's own choice
        with _replaced(backend, "CUDA_OPTIONS", {**backend.CUDA_OPTIONS, "cudnn_conv_algo_search": search}):
            embedder = open_embedder("box", setting.device, check=False)
        results[search] = {}
        for batch in range(1, 3 if setting.dry else 17):
            images = np.random.default_rng(batch).integers(0, 256, (batch, *size, 3), dtype=np.uint8)
            started = time.perf_counter()
            embedder.run(images)
            first = 1000 * (time.perf_counter() - started)
            results[search][batch] = [first, _milliseconds(partial(embedder.run, images))]
    return {"first_and_next_call_ms": results}


def engines(setting: Setting) -> object:
    """FP16 and INT8 engines with each installed package, their parity, and a second start with kept kernels."""
    if not any(map(nvidia.is_installed, ("tensorrt", "tensorrt-rtx"))):
        return "neither tensorrt nor tensorrt-rtx is installed"
    results: dict[str, object] = {}
    for precision in ("fp16", "int8"):
        out = setting.out / "engine" / precision
        options = ["--int8"] if precision == "int8" else []
        export = ("export", "box", "--trt", *options, "--out", out, "--json")
        # INT8 of the built-in model loses too much on synthetic people, which is what the export says.
        document = json.loads(bot(*export, timeout_s=1800, fails_parity=precision == "int8"))
        results[f"{precision} artifacts"] = document["artifacts"]
        engine = out / "model.engine"
        if setting.dry or not engine.exists():
            results[f"{precision} starts"] = "not without a GPU" if setting.dry else "the engine was rejected"
            continue
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            bot("bench", engine, "--seconds", "0.2", "--batches", "1")
            seconds.append(time.perf_counter() - started)
        results[f"{precision} seconds of the first and second start"] = seconds
    return results


def bench(setting: Setting) -> object:
    """`bot bench --json` of the models on the GPU."""
    models: list[object] = ["box"]
    options: tuple[object, ...] = ("--device", "cpu", "--seconds", "0.05", "--batches", "1,2")
    if not setting.dry:
        models += (setting.out / "engine").glob("*/model.engine")
        options = ("--seconds", "2", "--batches", "1,8,16,32,64,128")
    document: object = json.loads(bot("bench", *models, *options, "--json"))
    return document


PARTS = {part.__name__: part for part in (environment, runner, training, runs, onnxruntime, engines, bench, tests)}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("gpu-results"), show_default=True)
@click.option("--only", default=",".join(PARTS), show_default=True, help="Parts to run, separated by commas.")
@click.option("--dry-run", is_flag=True, help="Without a GPU: in small, on the CPU, into a temporary folder.")
@click.option("--market", type=click.Path(path_type=Path), help="Market-1501, for the paper's recipe; takes hours.")
@click.option("--weights", default="none", show_default=True, help="Initial weights of that run.")
def main(out: Path, only: str, dry_run: bool, market: Path | None, weights: str) -> None:
    """Run all parts, and print and keep their results."""
    if dry_run:
        sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # the stand-in for CUDA
        with tempfile.TemporaryDirectory() as folder:
            failed = _run_parts(only.split(","), Setting(Path(folder), dry=True))
    elif torch.cuda.is_available():
        out.mkdir(parents=True, exist_ok=True)
        failed = _run_parts(only.split(","), Setting(out, dry=False))
        if market:
            _train_on_market(market, weights, out / "strong")
    else:
        raise click.ClickException("PyTorch finds no GPU; `bot env` shows what this machine has; or try --dry-run")
    if failed:
        raise click.ClickException(f"failed: {', '.join(failed)}")


def _run_parts(names: list[str], setting: Setting) -> list[str]:
    """Runs the parts, and returns the names of those that failed."""
    results: dict[str, object] = {}
    failed = []
    for name in names:
        started = time.perf_counter()
        try:
            results[name] = PARTS[name](setting)
        except Exception:  # noqa: BLE001 - the other parts are still worth the GPU's time
            results[name] = {"error": traceback.format_exc()}
            failed.append(name)
        print(f"== {name}, {time.perf_counter() - started:.0f} s\n{json.dumps(results[name], indent=1)}", flush=True)
        (setting.out / "results.json").write_text(json.dumps(results, indent=1))
    return failed


def _train_on_market(market: Path, weights: str, out: Path) -> None:
    hours = 24 * 3600
    print(bot("train", "--data", market, "--recipe", "strong", "--weights", weights, "--out", out, timeout_s=hours))
    bot("export", out, "--fp16", timeout_s=hours)
    print(bot("eval", out / "model.onnx", "--data", market, "--json", timeout_s=hours))
    print(bot("ablate", "--data", market, "--weights", weights, "--out", out.with_name("table-1"), timeout_s=hours))


if __name__ == "__main__":
    main()
