"""Batches that are prepared ahead, and a GPU of tensors without content that counts copies and waits."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bot_deploy.datasets import Crop
from bot_deploy.errors import InputError, RunError
from bot_deploy.train import batches, gpu, loop
from bot_deploy.train.batches import load_batches, plan_epoch
from bot_deploy.train.data import TrainingSet
from bot_deploy.train.distributed import ALONE, World
from bot_deploy.train.recipe import Recipe
from bot_deploy.train.state import create_state

SIZE = (32, 16)
RECIPE = Recipe(
    arch="resnet18",
    weights="none",
    height=SIZE[0],
    width=SIZE[1],
    precision="fp32",
    identities_per_batch=6,
    images_per_identity=2,
    padding=2,
    warmup_epochs=0,
    unlabeled_batch=4,
    color_jitter=0.3,
    grayscale_probability=0.2,
)
LABELS = np.arange(48) // 8
TIMEOUT_S = 60
STEPS = 4  # batches of an epoch: 6 identities with 4 chunks each, all in every batch
GPU = World(0, 1, "meta")


def training_set(device: str = "cpu", *, teacher: bool = False) -> TrainingSet:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (len(LABELS), *SIZE, 3), dtype=np.uint8))
    vectors = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(len(LABELS), 5)).astype(np.float32)))
    return TrainingSet(tuple(range(len(LABELS))), LABELS, SIZE, pixels.to(device), vectors if teacher else None)  # type: ignore[arg-type]


# ---- a GPU that counts ----


class CountingGpu(TorchDispatchMode):
    """The device "meta" as a GPU: its tensors have no content, so that whatever needs a value would wait.

    `events` counts the copies by direction, and `waits` names all that makes the CPU wait for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: Counter[str] = Counter()
        self.waits: list[str] = []
        self.pinned: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and leaf.ndim]
        devices = {tensor.device.type for tensor in tensors}
        if name == "_local_scalar_dense" and args[0].device.type == "meta":
            self.waits.append("item")
            return 0.0
        if name == "_to_copy":
            target = torch.device(kwargs.get("device") or args[0].device)
            self._count(args[0], target.type, kwargs.get("non_blocking"), args[0])
        elif name == "copy_":
            target, source = args[:2]
            non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking")
            self._count(source, target.device.type, non_blocking, target if source.device.type == "meta" else source)
            if source.device.type == "meta" != target.device.type:
                return target.fill_(1)
        elif name in {"nonzero", "masked_select"} or (name == "index" and _has_mask(args[1])):
            self.waits.append(f"{name}: the number of rows")
        elif len(devices) > 1:
            self.waits.append(f"{name} of {' and '.join(sorted(devices))}")  # an implicit copy
        return func(*args, **kwargs)

    def _count(self, source: torch.Tensor, target: str, non_blocking: bool | None, on_host: torch.Tensor) -> None:
        if source.device.type == target:
            return
        direction = "in" if target == "meta" else "out"
        self.events[direction] += 1
        if not non_blocking or on_host.untyped_storage().data_ptr() not in self.pinned:
            self.waits.append(f"copy {direction}")


def _has_mask(indices: Any) -> bool:
    return any(index is not None and index.dtype in {torch.bool, torch.uint8} for index in indices)


class CountingConstants(TorchFunctionMode):
    """Counts tensors that are made from Python's numbers on the device: a copy that a dispatch mode does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in {torch.tensor, torch.as_tensor} and torch.device(kwargs.get("device") or "cpu").type == "meta":
            self.made += 1
        return func(*args, **kwargs)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> CountingGpu:
    """The counting device, with what a GPU has besides tensors: pinned memory, events and fused optimizers."""
    counter = CountingGpu()

    def pinned_memory(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        memory = torch.empty(shape, dtype=dtype)
        counter.pinned.add(memory.untyped_storage().data_ptr())
        return memory

    class Event:
        """An event that has not come yet whenever one looks."""

        def record(self) -> None:
            counter.events["recorded"] += 1

        def query(self) -> bool:
            return False

        def synchronize(self) -> None:
            counter.events["waited for"] += 1

    def without_fusing(make: Any) -> Any:
        return lambda *arguments, **options: make(*arguments, **{**options, "fused": False})

    for name in ("Adam", "SGD"):
        monkeypatch.setattr(torch.optim, name, without_fusing(getattr(torch.optim, name)))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(gpu, "pinned_memory", pinned_memory)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(batches, "_use_device", lambda device: None)
    monkeypatch.setattr(loop, "average", lambda sums, world: torch.zeros(7))  # once in an epoch
    return counter


@pytest.mark.parametrize("device", ["meta", "cpu"], ids=["crops on the GPU", "crops on the CPU"])
@pytest.mark.parametrize("distilled", [False, True], ids=["labels", "labels and a teacher"])
def test_the_loop_waits_for_nothing_but_losses_of_long_ago(
    device: str, distilled: bool, counting: CountingGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = 2
    monkeypatch.setattr(gpu, "MAX_STEPS_BEHIND", behind)
    labelled = training_set(device, teacher=distilled)
    unlabelled = training_set(device, teacher=True) if distilled else None
    state = create_state(RECIPE, labelled.num_ids, "meta", 5 if distilled else 0)
    with CountingConstants() as constants, counting:
        loop.train_epoch(state, labelled, RECIPE, GPU, None, unlabelled)
        first = constants.made
        counting.events.clear()
        loop.train_epoch(state, labelled, RECIPE, GPU, None, unlabelled)
    assert counting.waits == []
    assert constants.made == first <= 3  # mean and deviation of the pixels, and the weights of grey
    # One copy in and one out for each step; a loss is waited for when it is `behind` steps old, or at the end.
    assert counting.events == {"in": STEPS, "out": STEPS, "recorded": STEPS, "waited for": STEPS}


def test_the_counting_gpu_sees_what_would_wait(counting: CountingGpu) -> None:
    numbers = torch.ones(4, device="meta")
    with CountingConstants() as constants, counting:
        torch.tensor([1.0], device="meta")
        torch.ones(4).to("meta", non_blocking=True)  # not pinned
        gpu.pinned_memory((4,), torch.float32).to("meta")  # pinned, but waits
        gpu.pinned_memory((4,), torch.float32).copy_(numbers)
        numbers.sum().item()
        numbers[torch.arange(4)]
    assert constants.made == 1
    assert counting.waits == ["copy in", "copy in", "copy out", "item", "index of cpu and meta"]


def test_losses_are_looked_at_when_they_have_arrived(counting: CountingGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    arrived: list[bool] = []
    monkeypatch.setattr(torch.cuda.Event, "query", lambda event: bool(arrived))
    watch = gpu.LossWatch(1, training_set())
    with counting:
        for _ in range(5):
            watch.add(torch.ones(6, device="meta"), LABELS[:2])
    assert len(watch.waiting) == 5
    arrived.append(True)
    with counting:
        watch.add(torch.ones(6, device="meta"), LABELS[:2])
    assert not watch.waiting


def test_the_batch_of_a_loss_that_is_not_finite_is_named_however_late() -> None:
    crops = tuple(Crop(Path(f"{number}.jpg"), 0, 0) for number in range(4))
    watch = gpu.LossWatch(3, replace(training_set(), crops=crops))
    event = SimpleNamespace(query=lambda: False, synchronize=lambda: None)
    for rows, value in (([0, 1], 1.0), ([2, 3], np.nan), ([0, 2], np.nan)):
        watch.waiting.append((torch.full((7,), value), event, np.array(rows)))  # type: ignore[arg-type]
    with pytest.raises(RunError, match=r"epoch 3: the loss is not finite .*the batch was 2\.jpg, 3\.jpg$"):
        watch.finish()


# ---- what the batches are ----


@pytest.mark.parametrize("distilled", [False, True])
def test_a_block_of_memory_holds_the_batch_unchanged(distilled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way over a pinned block gives the same tensors as the way of the CPU."""
    monkeypatch.setattr(gpu, "pinned_memory", lambda shape, dtype: torch.empty(shape, dtype=dtype))
    labelled, unlabelled = training_set(teacher=distilled), training_set(teacher=True) if distilled else None
    plans = [plan_epoch(labelled, unlabelled, RECIPE, 1) for _ in range(2)]
    direct = list(load_batches(plans[0], RECIPE, ALONE))
    host_batches = batches._host_batches
    monkeypatch.setattr(
        batches, "_host_batches", lambda plan, sets, recipe, world: host_batches(plan, sets, recipe, GPU)
    )
    packed = list(load_batches(plans[1], RECIPE, ALONE))
    assert len(direct) == len(packed) == STEPS
    for one, other in zip(direct, packed, strict=True):
        assert np.array_equal(one.rows, other.rows)
        assert torch.equal(one.labels, torch.from_numpy(LABELS[one.rows]))
        left, right = tree_leaves(_tensors(one)), tree_leaves(_tensors(other))
        assert len(left) == len(right) > 6
        for a, b in zip(left, right, strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


def _tensors(batch: batches.Batch) -> list[Any]:
    parts = [
        [part.images, *(value for value in vars(part.augmentation).values() if value is not None)]
        for part in batch.parts
    ]
    return [batch.labels, parts, *([] if batch.teacher is None else [batch.teacher])]


def test_two_ranks_share_each_batch() -> None:
    labelled = training_set(teacher=True)
    recipe = replace(RECIPE, identities_per_batch=2)
    whole = list(load_batches(plan_epoch(labelled, labelled, recipe, 1), recipe, ALONE))
    halves = [
        list(load_batches(plan_epoch(labelled, labelled, recipe, 1), recipe, World(rank, 2, "cpu"))) for rank in (0, 1)
    ]
    for all_, first, second in zip(whole, *halves, strict=True):
        assert torch.equal(all_.labels, torch.cat([first.labels, second.labels]))
        for part, one, other in zip(all_.parts, first.parts, second.parts, strict=True):
            assert torch.equal(part.images, torch.cat([one.images, other.images]))
            assert torch.equal(part.augmentation.boxes, torch.cat([one.augmentation.boxes, other.augmentation.boxes]))


# ---- ahead ----


def test_a_thread_is_ahead_and_ends_with_its_reader() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    reader = batches._ahead(numbers(), "cpu")
    assert [next(reader), next(reader)] == [0, 1]
    reader.close()
    assert 2 <= len(made) <= 2 + batches.BATCHES_AHEAD
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]
    assert list(batches._ahead(iter("abc"), "cpu")) == ["a", "b", "c"]


def test_crops_are_decoded_before_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = []
    for number, label in enumerate(LABELS):
        Image.new("RGB", SIZE[::-1], (number, 2 * number, 3 * number)).save(tmp_path / f"{number}.png")
        crops.append(Crop(tmp_path / f"{number}.png", int(label), 0))
    on_disk = TrainingSet(tuple(crops), LABELS, SIZE, None)
    decoded, pixels = [], TrainingSet.pixels
    monkeypatch.setattr(TrainingSet, "pixels", lambda crops, rows: decoded.append(pixels(crops, rows)) or decoded[-1])
    reader = load_batches(plan_epoch(on_disk, None, RECIPE, 1), RECIPE, ALONE)
    first = next(reader)
    assert torch.equal(first.parts[0].images[:, 0, 0, 0], torch.from_numpy(first.rows).to(torch.uint8))
    end = time.monotonic() + TIMEOUT_S
    while len(decoded) < 1 + batches.BATCHES_AHEAD and time.monotonic() < end:
        time.sleep(0.01)
    for path in tmp_path.iterdir():
        path.unlink()
    for _ in range(batches.BATCHES_AHEAD):  # decoded while the first was used
        next(reader)
    with pytest.raises(InputError, match="training crops cannot be read"):
        list(reader)


def test_jpeg_compression_is_on_the_cpu_before_the_copy(counting: CountingGpu) -> None:
    recipe = replace(RECIPE, jpeg_probability=1.0)
    labelled = training_set()
    with counting:
        (batch, *_) = load_batches(plan_epoch(labelled, None, recipe, 1), recipe, GPU)
    assert counting.waits == []
    assert batch.parts[0].images.device.type == "meta"
    (plain, *_) = load_batches(plan_epoch(labelled, None, recipe, 1), recipe, ALONE)
    assert not torch.equal(plain.parts[0].images, labelled.pixels(plain.rows))
    assert plain.parts[0].augmentation.quality is None
