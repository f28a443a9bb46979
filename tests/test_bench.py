"""`bot bench`: what is timed, how the figures are computed, the table, and the command on a real model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers.commands import run_bot, run_python
from PIL import Image

from bot_deploy import bench, images
from bot_deploy.artifacts.contract import Contract
from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
from typing import Any

CONTRACT = Contract(arch="resnet18", height=8, width=4, dim=2, fingerprint="f")


class Clock:
    """A clock that moves only while a fake model works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[tuple[str, int]] = []

    def __call__(self) -> float:
        return self.now

    def entry(self, name: str, seconds: Callable[[int, int], float]) -> bench.Entry:
        """A model whose `number`-th call on `batch` images takes `seconds(number, batch)`."""
        calls = iter(range(10**6))

        def run(batch: images.Pixels) -> np.ndarray:
            assert batch.dtype == np.uint8
            assert batch.shape[1:] == (8, 4, 3)
            self.log.append((name, len(batch)))
            self.now += seconds(next(calls), len(batch))
            return np.zeros((len(batch), 2), np.float32)

        return bench.Entry(name, Embedder(CONTRACT, name, run, unit_length=False))


@pytest.fixture
def crops(tmp_path: Path) -> list[Path]:
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return images.find_images(tmp_path)


# ---- figures ----


def test_percentiles_median_and_best_batch_by_hand() -> None:
    # Sorted 10 20 30 40 50 ms: the median is 30, and 95 % lies 0.8 of the way from the 4th to the 5th, at 48.
    speed = bench.Speed({1: [0.03, 0.01, 0.05, 0.02, 0.04], 8: [0.1, 0.9, 0.1], 4: [0.04, 0.06]})
    assert speed.latency_ms(50) == pytest.approx(30)
    assert speed.latency_ms(95) == pytest.approx(48)
    assert speed.images_per_second(1) == pytest.approx(1 / 0.03)
    assert speed.images_per_second(4) == pytest.approx(4 / 0.05)
    assert speed.images_per_second(8) == pytest.approx(80)  # by the median 0.1; the mean would make it 21.8
    assert speed.best_batch in {4, 8}
    assert bench.Speed({1: [0.5], 2: [0.9], 4: [2.1]}).best_batch == 2
    assert speed.to_dict()["latency_ms"] == {"p50": pytest.approx(30), "p95": pytest.approx(48)}


def test_speedup_over_baseline_by_hand() -> None:
    baseline = bench.Speed({1: [0.1], 8: [0.4]})  # 100 ms; 20 images/s in batches of 8
    faster = bench.Speed({1: [0.025], 8: [0.25]})  # 25 ms; 40 images/s alone
    assert faster.speedup_over(baseline) == {"latency": pytest.approx(4), "throughput": pytest.approx(2)}
    assert baseline.speedup_over(baseline) == {"latency": 1, "throughput": 1}


# ---- turns ----


def test_each_turn_begins_with_an_untimed_call_and_all_get_equally_many_turns() -> None:
    clock = Clock()
    order: list[str] = []

    def work(name: str, *seconds: float) -> Callable[[], None]:
        left = iter([*seconds, *[seconds[-1]] * 1000])

        def call() -> None:
            order.append(name)
            clock.now += next(left)

        return call

    # The very first call compiles (9 s); later a takes 1 s and b takes 2 s. 10 s are 2 s for each of 5 turns.
    timed = bench.time_in_turns([work("a", 9, 1), work("b", 9, 2)], 10, clock)
    assert timed == [[1] * 10, [2] * 5]
    assert order == ["a", "b"] + (["a"] * 3 + ["b"] * 2) * 5


def test_the_first_call_of_a_turn_is_not_timed() -> None:
    clock = Clock()
    calls = iter(range(1000))

    def work() -> None:  # after the first call, slow and fast calls alternate; each turn is one slow and one fast call
        number = next(calls)
        clock.now += 1 if number and number % 2 == 0 else 50

    assert bench.time_in_turns([work], 0, clock) == [[1] * 5]


def test_slow_work_is_timed_once_in_a_turn() -> None:
    clock = Clock()

    def work() -> None:
        clock.now += 100

    assert bench.time_in_turns([work], 1, clock) == [[100] * bench.ROUNDS]


# ---- measuring ----


def test_entries_are_measured_side_by_side(crops: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    read = images._read

    def read_slowly(*arguments: Any) -> images.Pixels:
        clock.now += 0.5
        return read(*arguments)

    monkeypatch.setattr(images, "_read", read_slowly)
    fast = clock.entry("fast", lambda _, batch: 0.25 + 0.25 * batch)  # 2 images/s in batches of 1, 3.2 in 4
    slow = clock.entry("slow", lambda _, batch: 1.0 * batch**2)  # best alone
    results = bench.measure([slow, fast], crops, [4, 2], 1, clock)
    assert [result.entry.name for result in results] == ["slow", "fast"]
    for result in results:
        assert set(result.model_only.seconds) == set(result.with_decoding.seconds) == {1, 2, 4}  # 1 is always measured
    first, second = results
    assert second.model_only.latency_ms(50) == pytest.approx(500)
    assert second.with_decoding.latency_ms(50) == pytest.approx(1000)
    assert second.model_only.images_per_second(4) == pytest.approx(4 / 1.25)
    assert second.with_decoding.images_per_second(4) == pytest.approx(4 / (1.25 + 4 * 0.5))
    assert second.model_only.best_batch == second.with_decoding.best_batch == 4
    assert (first.model_only.best_batch, first.model_only.images_per_second(1)) == (1, pytest.approx(1))
    assert second.model_only.speedup_over(first.model_only) == {
        "latency": pytest.approx(2),
        "throughput": pytest.approx(3.2),
    }
    # Batches are full, also with decoding: 3 files are repeated to fill a batch of 4.
    assert {size for _, size in clock.log} == {1, 2, 4}
    # Entries take turns: between two turns of one entry at a batch size, the other has its turn.
    names = [name for name, size in clock.log if size == 4]
    turns = [name for name, previous in zip(names[1:], names, strict=False) if name != previous]
    assert turns.count("slow") >= bench.ROUNDS
    assert turns.count("fast") >= bench.ROUNDS


def test_unreadable_crops_are_left_out(crops: list[Path], tmp_path: Path) -> None:
    (tmp_path / "0000.jpg").write_bytes(b"no picture")
    assert bench.find_readable_images(tmp_path) == crops
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image in it that can be read"):
        bench.find_readable_images(tmp_path / "empty")


# ---- the table ----


def test_table_fits_in_120_columns_and_holds_the_measured_figures(crops: list[Path]) -> None:
    clock = Clock()
    long = clock.entry("somewhere/far/away/in/a/deep/folder/model.int8.onnx openvino-bf16", lambda _, n: 1e-4 * n)
    slow = clock.entry("slow", lambda _, n: 1.23456789 * n)
    results = bench.measure([slow, long], crops, [1, 512], 0, clock)
    text = "\n".join(bench.format_table(results, [None, results[0]]))
    lines = text.splitlines()
    assert len(lines) == 3 + 2
    assert max(map(len, lines)) <= 120
    assert lines[3].split() == ["slow", *["1234.57"] * 4, *["0.8", "at", "1"] * 2]
    assert lines[4].split()[-2:] == ["12345.68x", "12345.68x"]
    assert "…" in lines[4]
    assert "model.int8.onnx openvino-bf16" in lines[4]


# ---- the command ----


def test_json_of_a_real_run(onnx_file: Path, checkpoint_file: Path, people: Path) -> None:
    result = run_bot(
        *("bench", onnx_file, "--device", "cpu", "--seconds", "0", "--batches", "2,1", "--json"),
        *("--images", people / "query", "--baseline", checkpoint_file, "--threads", "1"),
    )
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert set(document["machine"]) == {"cpu", "cores", "threads"}
    assert document["machine"]["cpu"]
    assert document["machine"]["threads"] == 1
    assert document["images"] == str(people / "query")
    assert document["left_out"] == []
    (entry,), (baseline,) = document["entries"], document["baselines"]
    assert (entry["file"], entry["device"]) == (str(onnx_file), "cpu")
    assert entry["backend"].startswith("ONNX Runtime")
    assert str(checkpoint_file) in baseline["name"] == entry["baseline"]
    for figures in (entry, baseline):
        for mode in ("model_only", "with_decoding"):
            speed = figures[mode]
            assert 0 < speed["latency_ms"]["p50"] <= speed["latency_ms"]["p95"] < 60_000
            rates = speed["images_per_second"]
            assert set(rates) == {"1", "2"}
            assert rates["1"] == pytest.approx(1000 / speed["latency_ms"]["p50"])
            assert rates[str(speed["best_batch"])] == max(rates.values())
    for mode, speedup in entry["speedup_over_baseline"].items():
        assert speedup["latency"] == pytest.approx(
            baseline[mode]["latency_ms"]["p50"] / entry[mode]["latency_ms"]["p50"]
        )
        best = [max(figures[mode]["images_per_second"].values()) for figures in (entry, baseline)]
        assert speedup["throughput"] == pytest.approx(best[0] / best[1])


def test_without_torch_there_is_a_table_and_no_baseline(onnx_file: Path, people: Path) -> None:
    blocked = "import sys; sys.modules.update(torch=None, torchvision=None, onnx=None)\n"
    result = run_python(
        *("-c", f"{blocked}from bot_deploy.cli import main; main()"),
        *("bench", onnx_file, "--seconds", "0", "--batches", "1", "--images", people / "query"),
    )
    assert result.returncode == 0, result.stderr
    assert "no baseline: torch is not installed" in result.stderr
    assert "cuda: left out; " in result.stderr  # by default every device is tried, and the failed ones are listed
    assert f"{str(onnx_file)[-20:]} cpu" in result.stdout
    assert "x\n" not in result.stdout


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--batches", "1,many"], 2, "--batches 1,many: give sizes from 1 to 1024"),
        (["--batches", "0"], 2, "--batches 0: "),
        (["--batches", ""], 2, "empty"),
        (["--device", "openvino-tpu"], 2, "is not one of"),
        (["--images", "nowhere", "--device", "cpu"], 2, "nowhere: no such folder of crops"),
        (["--baseline", "nowhere.pt", "--device", "cpu"], 2, "nowhere.pt: no such model file"),
    ],
)
def test_wrong_usage(onnx_file: Path, options: list[str], code: int, message: str) -> None:
    result = run_bot("bench", onnx_file, *options)
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_files_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no model")
    for name, message in (
        ("a.onnx", "not an ONNX model"),
        ("b.onnx", "no such model file"),
        ("c.txt", "no such model"),
    ):
        result = run_bot("bench", tmp_path / name)
        assert result.returncode == 2
        assert message in result.stderr
        assert "Traceback" not in result.stderr


def test_a_baseline_of_another_size_is_refused(onnx_file: Path, tmp_path: Path) -> None:
    import torch

    from bot_deploy.artifacts import checkpoint
    from bot_deploy.artifacts.checkpoint import contract_of
    from bot_deploy.model import ReID

    torch.manual_seed(0)
    model = ReID("mobilenet_v2", 2)
    other = checkpoint.Checkpoint(contract_of(model, 32, 16), model.state_dict(), 2, 1, "bnneck", ("none",))
    checkpoint.save(other, tmp_path / "model.pt")
    result = run_bot("bench", onnx_file, "--device", "cpu", "--baseline", tmp_path / "model.pt")
    assert result.returncode == 2
    assert "not of the architecture and image size" in result.stderr


def test_the_random_baseline_has_the_length_of_a_reduced_embedding(tmp_path: Path) -> None:
    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.commands.bench import _make_baseline

    contract = Contract(arch="resnet18", height=32, width=16, dim=24, fingerprint="x")
    entry = _make_baseline(tmp_path / "model.onnx", contract, None, 1, "cpu")
    assert entry.embedder.run(np.zeros((2, 32, 16, 3), np.uint8)).shape == (2, 24)
