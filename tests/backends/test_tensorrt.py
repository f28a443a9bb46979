"""Running an engine, on a GPU made of lists: batches, graphs, memory, threads, faults."""

from __future__ import annotations

import gc
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.fake_cuda import (
    CONTRACT,
    DIM,
    HEIGHT,
    MODEL,
    RTX,
    SIDECAR,
    TENSORRT,
    WIDTH,
    Context,
    Engine,
    Error,
    Gpu,
    crops,
    embeddings,
)

from bot_deploy.artifacts import engine_cache
from bot_deploy.backends.engine_runner import Runner, batch_sizes
from bot_deploy.driver import Gpu as GpuModel
from bot_deploy.errors import RunError

PROFILES = [(1, 2, 4), (3, 3, 5), (2, 6, 6), (1, 1, 1), (7, 7, 7)]
PACKAGES = pytest.mark.parametrize("trt", [TENSORRT, RTX], ids=["tensorrt", "tensorrt-rtx"])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def runner(
    gpu: Gpu,
    profile: tuple[int, int, int] = (1, 2, 4),
    trt: SimpleNamespace = TENSORRT,
    *,
    runs: bool = True,
    number: int = 0,
    model: GpuModel = MODEL,
) -> Runner:
    engine = Engine(gpu, profile, user_managed=trt is TENSORRT, runs=runs)
    gpu.cudaSetDevice(number)
    return Runner(trt, engine._logger, gpu, engine, replace(SIDECAR, profile=profile), model, number)


# ---- batches ----


@PACKAGES
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_any_batch_comes_back_whole_and_in_order(
    profile: tuple[int, int, int], trt: SimpleNamespace, seed: int | None
) -> None:
    running = runner(Gpu(seed=seed), profile, trt)
    for count in (*range(12), 3, 1, 11, 30, 2):  # sizes come back, so that captured passes run, too
        images = crops(count, seed=count)
        vectors = running.run(images)
        assert vectors.shape == (count, DIM)
        assert vectors.dtype == np.float32
        np.testing.assert_array_equal(vectors, embeddings(images))


def test_results_are_the_callers_own() -> None:
    running = runner(Gpu())
    first = running.run(crops(2, seed=1))
    running.run(crops(2, seed=2))
    np.testing.assert_array_equal(first, embeddings(crops(2, seed=1)))


def test_every_second_pixel_of_a_larger_picture_is_taken_as_seen() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 2 * HEIGHT, WIDTH, 3), dtype=np.uint8)[:, ::2]
    np.testing.assert_array_equal(runner(Gpu()).run(images), embeddings(images))


def test_batch_sizes_are_few_and_pad_by_a_third_at_most() -> None:
    assert batch_sizes((1, 8, 64)) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert batch_sizes((5, 5, 5)) == [5]
    assert batch_sizes((3, 5, 9)) == [3, 4, 5, 6, 8, 9]
    sizes = batch_sizes((1, 1, 65_536))
    assert len(sizes) < 40
    assert all(larger <= 1.5 * smaller or smaller == 1 for smaller, larger in pairwise(sizes))


def test_contexts_are_bounded_by_the_batch_sizes() -> None:
    gpu = Gpu()
    running = runner(gpu, (1, 64, 64))
    for count in range(1, 65):
        np.testing.assert_array_equal(running.run(crops(count, count)), embeddings(crops(count, count)))
    assert len(running.engine._made) == len(batch_sizes((1, 64, 64))) == 12


def test_a_batch_below_the_smallest_size_is_padded_with_black() -> None:
    gpu = Gpu()
    running = runner(gpu, (3, 3, 4))
    running.run(np.full((4, HEIGHT, WIDTH, 3), 255, np.uint8))
    vectors = running.run(crops(1))
    assert "run 3" in gpu._log
    assert vectors.shape == (1, DIM)
    assert not running.slots[0].pixels[1:3].any()


# ---- graphs ----


def test_order_of_calls_and_one_graph_for_each_small_batch() -> None:
    gpu = Gpu()
    running = runner(gpu, (1, 2, 4))
    running.run(crops(2))
    first = ["in", "run 2", "out", "wait"]
    capture = ["capture", "in", "run 2", "out", "captured"]
    assert gpu._log == [*first, *capture]
    gpu._log.clear()
    running.run(crops(2))
    assert gpu._log == ["launch", "wait"]
    gpu._log.clear()
    for count in (3, 4):  # more than the best: no graphs
        running.run(crops(count))
    assert gpu._log == [word for size in (3, 4) for word in ("in", f"run {size}", "out", "wait")]
    gpu._log.clear()
    running.run(crops(2))  # its context was left alone by the larger ones
    assert gpu._log == ["launch", "wait"]


@PACKAGES
def test_two_slots_take_turns(trt: SimpleNamespace) -> None:
    gpu = Gpu()
    running = runner(gpu, (1, 2, 4), trt)
    running.run(crops(15))
    first, second, third, last = (["in", f"run {size}", "out"] for size in (4, 4, 4, 3))
    # The second batch is filled and started before anything waits, and each wait is followed by the next start.
    assert gpu._log == [*first, *second, "wait", *third, "wait", *last, "wait", "wait"]
    assert len(running.engine._made) == 2
    gpu._log.clear()
    running.run(crops(4))  # the first slot and its context again
    assert gpu._log == [*first, "wait"]
    assert len(running.engine._made) == 2


def test_a_batch_is_copied_while_another_is_computed() -> None:
    gpu = Gpu()
    running = runner(gpu, (1, 2, 4))
    stuck = gpu._drain_one
    computing, copying = running.stream, running.copies

    def copy_first(stream: int) -> None:
        """As where copies are fast and the network is slow: all that can be copied is copied first."""
        while stream == computing and gpu._queues[copying]:
            stuck(copying)
        stuck(stream)

    gpu._drain_one = copy_first  # type: ignore[method-assign]
    np.testing.assert_array_equal(running.run(crops(8)), embeddings(crops(8)))
    assert gpu._done == ["in", "in", "run 4", "out", "run 4", "out"]


def test_small_batches_that_take_turns_have_a_graph_in_each_slot() -> None:
    gpu = Gpu()
    running = runner(gpu, (2, 2, 2))
    running.run(crops(4))
    gpu._log.clear()
    np.testing.assert_array_equal(running.run(crops(6, seed=1)), embeddings(crops(6, seed=1)))
    assert gpu._log == ["launch", "launch", "wait", "launch", "wait", "wait"]


def test_after_a_fault_in_the_second_slot_the_first_is_at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu()
    running = runner(gpu, (1, 2, 4))
    running.run(crops(8))
    enqueue, calls = Context.execute_async_v3, []

    def fail_at_the_second(context: Context, stream: int) -> bool:
        calls.append(stream)
        return len(calls) != 2 and enqueue(context, stream)

    monkeypatch.setattr(Context, "execute_async_v3", fail_at_the_second)
    with pytest.raises(RunError, match="cannot run a batch of 4"):
        running.run(crops(8, seed=1))
    assert not any(gpu._queues.values())
    np.testing.assert_array_equal(running.run(crops(9, seed=2)), embeddings(crops(9, seed=2)))


def test_rtx_makes_its_graphs_itself_in_one_context() -> None:
    gpu = Gpu()
    running = runner(gpu, (1, 2, 4), RTX)
    for count in (2, 2, 1, 4):
        running.run(crops(count))
    assert "capture" not in gpu._log
    assert len(running.engine._made) == 1
    assert running.config is running.engine._config  # alive as long as its contexts
    assert running.config.cuda_graph_strategy == "WHOLE_GRAPH_CAPTURE"
    assert running.config.dynamic_shapes_kernel_specialization_strategy == "EAGER"


def test_what_cannot_be_captured_runs_without_a_graph_and_is_tried_once() -> None:
    gpu = Gpu(capturable=False)
    running = runner(gpu)
    for seed in range(3):
        np.testing.assert_array_equal(running.run(crops(2, seed)), embeddings(crops(2, seed)))
    assert gpu._log.count("capture") == 1
    assert "launch" not in gpu._log


# ---- the kernels of TensorRT-RTX ----

KERNELS = f"{SIDECAR.sha256[:32]}-10.13.2-sm89-NVIDIA-GeForce-RTX-4090-128-multiprocessors.kernels"


def test_kernels_are_compiled_once_for_all_runs() -> None:
    first = runner(Gpu(), trt=RTX)
    for count in (2, 4, 2, 9):
        first.run(crops(count))
    assert first.engine._compiled == [2, 4, 1]
    del first
    gc.collect()
    (kept,) = engine_cache.folder().iterdir()
    assert kept.name == KERNELS
    second = runner(Gpu(), trt=RTX)
    for count in (4, 1, 3):
        np.testing.assert_array_equal(second.run(crops(count)), embeddings(crops(count)))
    assert second.engine._compiled == [3]
    del second
    gc.collect()
    assert engine_cache.read(kept.name) == b"kernels\x01\x02\x03\x04"


def test_kernels_of_another_version_are_compiled_again() -> None:
    engine_cache.write(KERNELS, b"of another version")
    running = runner(Gpu(), trt=RTX)
    running.run(crops(2))
    assert running.engine._compiled == [2]
    del running
    gc.collect()
    assert engine_cache.read(KERNELS) == b"kernels\x02"


@pytest.mark.parametrize(
    "other", [replace(MODEL, name="NVIDIA GeForce RTX 4080", multiprocessors=76), replace(MODEL, arch="sm90")]
)
def test_kernels_of_another_gpu_are_neither_read_nor_replaced(other: GpuModel) -> None:
    for model in (MODEL, other):
        running = runner(Gpu(), trt=RTX, model=model)
        running.run(crops(2))
        assert running.engine._compiled == [2]  # the stand-in would take the kernels of any GPU
        del running
        gc.collect()
    assert len(list(engine_cache.folder().iterdir())) == 2
    assert engine_cache.read(KERNELS) == b"kernels\x02"


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    running = runner(Gpu(), trt=RTX)
    np.testing.assert_array_equal(running.run(crops(2)), embeddings(crops(2)))
    del running
    gc.collect()


# ---- memory, GPUs and threads ----


@PACKAGES
def test_memory_is_given_back(trt: SimpleNamespace) -> None:
    gpu = Gpu()
    running = runner(gpu, (1, 2, 4), trt)
    running.run(crops(7))
    running.run(crops(2))
    assert {kind for kind, *_ in gpu._memory.values()} == {"host", "device"}
    assert bool(gpu._executables) is (trt is TENSORRT)
    del running
    gc.collect()
    assert not gpu._memory
    assert not gpu._streams
    assert not gpu._events
    assert not any(gpu._executables.values())


def test_gpu_without_memory_is_one_line_and_keeps_nothing() -> None:
    gpu = Gpu(memory=200)
    with pytest.raises(RunError, match="out of memory; `bot env`"):
        runner(gpu)
    gc.collect()
    assert not gpu._memory


def test_the_second_gpu_is_used_from_every_thread() -> None:
    gpu = Gpu(gpus=2)
    running = runner(gpu, number=1)
    gpu.cudaSetDevice(0)  # as it is in a new thread
    np.testing.assert_array_equal(running.run(crops(3)), embeddings(crops(3)))
    assert gpu._current == 1
    assert {number for *_, number in gpu._memory.values()} == {1}


def test_two_threads_do_not_mix_their_batches() -> None:
    running = runner(Gpu())
    wrong: list[int] = []

    def work(seed: int) -> None:
        for turn in range(50):
            images = crops(1 + turn % 4, seed)
            if not np.array_equal(running.run(images), embeddings(images)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- faults ----


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        ("cudaSetDevice", 209, "CUDA: no kernel image is available"),
        ("cudaMemcpyAsync", 700, "CUDA: an illegal memory access"),
        ("execute_async_v3", 209, r"tensorrt cannot run a batch of 2 \(Cuda Runtime \(no kernel image"),
        ("cudaEventSynchronize", 719, "CUDA: unspecified launch failure"),
        ("create_execution_context", 2, r"tensorrt cannot set up the engine \(Cuda Runtime \(out of memory"),
    ],
)
def test_a_fault_of_the_gpu_is_said_in_its_words(function: str, error: int, words: str) -> None:
    gpu = Gpu()
    running = runner(gpu)
    gpu._faults[function] = Error(error)
    with pytest.raises(RunError, match=f"{words}.*`bot env`"):
        running.run(crops(2))


def test_a_fault_of_a_captured_pass_is_said_too() -> None:
    gpu = Gpu()
    running = runner(gpu)
    running.run(crops(2))
    gpu._faults["cudaGraphLaunch"] = Error.launch_failure
    for _ in range(2):  # the GPU is lost for this process
        with pytest.raises(RunError, match="unspecified launch failure"):
            running.run(crops(2))


@pytest.mark.parametrize("function", ["cudaGraphInstantiate"])
def test_a_graph_that_cannot_be_made_is_done_without(function: str) -> None:
    gpu = Gpu()
    gpu._faults[function] = Error.memory_allocation
    running = runner(gpu)
    for seed in range(2):
        np.testing.assert_array_equal(running.run(crops(2, seed)), embeddings(crops(2, seed)))


# ---- the stand-in itself ----


def test_the_stand_in_refuses_what_the_headers_forbid() -> None:
    gpu = Gpu()
    engine = Engine(gpu, (1, 2, 4), user_managed=False)
    context = Context(engine, None)
    _, stream = gpu.cudaStreamCreateWithFlags(1)
    assert not context.execute_async_v3(stream)  # neither shape nor addresses
    (_, pixels), (_, vectors) = gpu.cudaMalloc(4 * CONTRACT.height * CONTRACT.width * 3), gpu.cudaMalloc(4 * DIM * 4)
    assert context.set_input_shape("images", (2, HEIGHT, WIDTH, 3))
    assert context.set_tensor_address("images", pixels)
    assert not context.execute_async_v3(stream)  # no address of the output
    assert context.set_tensor_address("embeddings", vectors)
    gpu.cudaStreamBeginCapture(stream, 1)
    assert not context.execute_async_v3(stream)  # the first pass of a shape allocates
    assert gpu.cudaStreamEndCapture(stream)[0] == Error.stream_capture_invalidated
    assert context.execute_async_v3(stream)
    gpu.cudaStreamBeginCapture(stream, 1)
    assert gpu.cudaMalloc(1) == (Error.stream_capture_unsupported, None)
    assert gpu.cudaStreamSynchronize(stream) == (Error.stream_capture_unsupported,)
    assert gpu.cudaStreamEndCapture(stream)[0] == Error.stream_capture_invalidated
    gpu.cudaStreamBeginCapture(stream, 1)
    assert context.execute_async_v3(stream)
    assert gpu.cudaStreamEndCapture(stream)[0] == Error.success
    with pytest.raises(AssertionError):
        context.set_tensor_address("images", pixels)  # of a captured context
    with pytest.raises(AssertionError):
        context.set_input_shape("images", (1, HEIGHT, WIDTH, 3))


def test_the_stand_in_has_only_names_of_the_real_package() -> None:
    pytest.importorskip("tensorrt_rtx", reason="the names are those of this package")
    engine = Engine(Gpu(), (1, 2, 4), user_managed=False)
    with pytest.raises(AssertionError, match="has no cuda_graph_stragety"):
        engine.create_runtime_config().cuda_graph_stragety = "DISABLED"
