"""Running an engine, on a GPU made of lists: batches, graphs, memory, threads."""

from __future__ import annotations

import gc
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.fake_cuda import DIM, HEIGHT, RTX, SIDECAR, TENSORRT, WIDTH, Engine, Gpu, crops, embeddings

from bot_deploy.backends import tensorrt
from bot_deploy.errors import RunError


def runner(
    gpu: Gpu, profile: tuple[int, int, int] = (1, 2, 4), trt: SimpleNamespace = TENSORRT, *, runs: bool = True
) -> tensorrt.Runner:
    engine = Engine(gpu, profile, user_managed=trt is TENSORRT, runs=runs)
    return tensorrt.Runner(trt, gpu, engine, replace(SIDECAR, profile=profile))


@pytest.mark.parametrize("trt", [TENSORRT, RTX], ids=["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("profile", [(1, 2, 4), (3, 3, 5), (2, 6, 6), (1, 1, 1)])
def test_any_batch_comes_back_whole_and_in_order(profile: tuple[int, int, int], trt: SimpleNamespace) -> None:
    running = runner(Gpu(), profile, trt)
    for count in (*range(12), 3, 1, 11, 2):  # sizes come back, so that captured passes run, too
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


def test_order_of_calls_and_one_graph_for_each_small_batch() -> None:
    gpu = Gpu()
    running = runner(gpu, (1, 2, 4))
    running.run(crops(2))
    first = ["in", "run 2", "out", "wait"]
    capture = ["capture", "in", "run 2", "out", "captured"]
    assert gpu.log == [*first, *capture]
    gpu.log.clear()
    running.run(crops(2))
    assert gpu.log == ["launch", "wait"]
    gpu.log.clear()
    running.run(crops(7))  # 4 and 3, more than the best: no graphs
    running.run(crops(4))
    assert gpu.log == [word for size in (4, 3, 4) for word in ("in", f"run {size}", "out", "wait")]
    gpu.log.clear()
    running.run(crops(2))  # its context was left alone by the larger ones
    assert gpu.log == ["launch", "wait"]


def test_a_batch_below_the_smallest_size_is_padded_with_black() -> None:
    gpu = Gpu()
    running = runner(gpu, (3, 3, 4))
    running.run(np.full((4, HEIGHT, WIDTH, 3), 255, np.uint8))
    vectors = running.run(crops(1))
    assert "run 3" in gpu.log
    assert vectors.shape == (1, DIM)
    assert not running.pixels[1:3].any()


def test_rtx_makes_its_graphs_itself_in_one_context() -> None:
    gpu = Gpu()
    running = runner(gpu, (1, 2, 4), RTX)
    for count in (2, 2, 1, 4):
        running.run(crops(count))
    assert "capture" not in gpu.log
    assert len(running.engine.made) == 1
    assert running.engine.config.cuda_graph_strategy == "WHOLE_GRAPH_CAPTURE"


def test_what_cannot_be_captured_runs_without_a_graph_and_is_tried_once() -> None:
    gpu = Gpu(capturable=False)
    running = runner(gpu)
    for seed in range(3):
        np.testing.assert_array_equal(running.run(crops(2, seed)), embeddings(crops(2, seed)))
    assert gpu.log.count("capture") == 1
    assert "launch" not in gpu.log


@pytest.mark.parametrize("trt", [TENSORRT, RTX], ids=["tensorrt", "tensorrt-rtx"])
def test_memory_is_given_back(trt: SimpleNamespace) -> None:
    gpu = Gpu()
    running = runner(gpu, (1, 2, 4), trt)
    running.run(crops(7))
    running.run(crops(2))
    assert {kind for kind, _ in gpu.memory.values()} == {"host", "device"}
    assert bool(gpu.executables) is (trt is TENSORRT)
    del running
    gc.collect()
    assert not gpu.memory
    assert not gpu.streams
    assert not any(gpu.executables.values())


def test_gpu_without_memory_is_one_line_and_keeps_nothing() -> None:
    gpu = Gpu(memory=200)
    with pytest.raises(RunError, match="out of memory"):
        runner(gpu)
    gc.collect()
    assert not gpu.memory


def test_engine_that_does_not_run_says_so() -> None:
    with pytest.raises(RunError, match="cannot run a batch of 2; `bot env`"):
        runner(Gpu(), runs=False).run(crops(2))


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
