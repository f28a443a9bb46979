"""Every file that is read from disk, mutated at random: it is read, or refused by one line. Nothing else is raised."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from helpers.fake_camera import CONTRACT as ONNX_CONTRACT
from helpers.fake_camera import write_colour_model
from helpers.fake_cuda import SIDECAR
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.attacks.mutate import change_document
from bot_deploy.artifacts import checkpoint, engine_file, onnx_file
from bot_deploy.artifacts.contract import Calibration, Contract, from_json
from bot_deploy.errors import InputError
from bot_deploy.export.importers.checkpoint import import_checkpoint
from bot_deploy.model import ReID
from bot_deploy.train import run_files
from bot_deploy.train.losses import CenterLoss
from bot_deploy.train.recipe import Recipe, load_recipe, to_toml
from bot_deploy.train.run_files import EpochMetrics
from bot_deploy.train.state import TrainingState, restore_state, save_state
from bot_deploy.train.weights import load_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CALIBRATION = Calibration(
    data="people", genuine_pairs=200, impostor_pairs=4000, target_false_accept_rate=0.01,
    threshold=0.6, reject_threshold=0.3, false_reject_rate=0.2,
    curve=((0.5, 0.1), (0.6, 0.01)),
)  # fmt: skip
CONTRACT = Contract(arch="mobilenet_v2", height=64, width=32, dim=1280, fingerprint="0" * 16, calibration=CALIBRATION)

NUMBERS = st.sampled_from([0, -1, 1, 2, 1.5, 1e-30, -5, 10**12, 10**400, 1e308, math.nan, math.inf, -math.inf, True])
TEXTS = st.sampled_from(["", "x", "\0", "\udc80", "é☃", "../../x", "nan", "1", "y" * 100_000])
LEAVES = NUMBERS | TEXTS | st.none()
VALUES = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(st.sampled_from(["a", "data", "curve", ""]), LEAVES)
DEEP: Any = []
for _ in range(5000):
    DEEP = [DEEP]


def mutations(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[int, str, Any]]]:
    """One to three changes of a document, as `change_document` takes them."""
    way = st.sampled_from(["replace", "replace", "delete", "add", "repeat"])
    return st.lists(st.tuples(st.integers(0, 10_000), way, values), min_size=1, max_size=3)


@dataclasses.dataclass
class Edit:
    """A change of bytes: a part of the file is dropped, overwritten or repeated."""

    start: float
    length: int
    what: str
    data: bytes

    def __call__(self, content: bytes) -> bytes:
        start = int(self.start * len(content))
        part = content[start : start + self.length]
        new = {"drop": b"", "overwrite": self.data[: len(part)], "repeat": part + part, "cut": b""}[self.what]
        return content[:start] + new + (b"" if self.what == "cut" else content[start + self.length :])


EDITS = st.builds(
    Edit,
    start=st.floats(0, 1),
    length=st.integers(1, 40),
    what=st.sampled_from(["drop", "overwrite", "repeat", "cut"]),
    data=st.binary(min_size=40, max_size=40),
)


def examples(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`count` examples, the same in every run."""
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def read_or_refuse(read: Callable[[], Any]) -> Any:
    """The result of `read`, or None if it raised an InputError of one line."""
    try:
        return read()
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert len(str(error)) < 2000  # noqa: PT017
        assert error.exit_code == 2  # noqa: PT017
        return None


def check_contract(contract: Contract) -> None:
    """What every contract that was read fulfils."""
    assert 1 <= contract.height <= 4096
    assert 1 <= contract.width <= 4096
    assert 1 <= contract.dim <= 65_536
    assert all(map(math.isfinite, contract.mean))
    assert all(value > 0 for value in contract.std)
    if contract.calibration:
        assert -1 <= contract.calibration.reject_threshold <= contract.calibration.threshold <= 1
        cosines = [cosine for cosine, _ in contract.calibration.curve]
        assert cosines
        assert cosines == sorted(set(cosines))
    assert from_json(contract.to_json(), "m") == contract


# ---- contract, ONNX file, sidecar ----


@examples(150)
@given(changes=mutations(VALUES))
def test_contract_fields(changes: list[tuple[int, str, Any]]) -> None:
    text = json.dumps(change_document(json.loads(CONTRACT.to_json()), changes))
    contract = read_or_refuse(lambda: from_json(text, "m.onnx"))
    if contract:
        check_contract(contract)


@examples(150)
@given(edit=EDITS)
def test_contract_text(edit: Edit) -> None:
    text = edit(CONTRACT.to_json().encode()).decode(errors="replace")
    contract = read_or_refuse(lambda: from_json(text, "m.onnx"))
    if contract:
        check_contract(contract)


def test_contract_that_is_nested_too_deeply() -> None:
    with pytest.raises(InputError, match="not readable"):
        from_json("[" * 100_000, "m.onnx")
    with pytest.raises(InputError, match=r"not readable|damaged"):
        from_json(CONTRACT.to_json()[:-1] + ', "calibration": ' + "[" * 900 + "]" * 900 + "}", "m.onnx")


@examples(150)
@given(edit=EDITS)
def test_onnx_file(edit: Edit, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if not path.exists():
        write_colour_model(tmp_path / "whole.onnx")
    path.write_bytes(edit((tmp_path / "whole.onnx").read_bytes()))
    contract = read_or_refuse(lambda: onnx_file.read_contract(path))
    if contract:
        check_contract(contract)
        assert contract.format == ONNX_CONTRACT.format


@examples(150)
@given(changes=mutations(VALUES))
def test_sidecar_fields(changes: list[tuple[int, str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(b"an engine")
    text = json.dumps(change_document(json.loads(SIDECAR.to_json()), changes))
    engine_file.sidecar_path(path).write_text(text, errors="surrogatepass")
    result = read_or_refuse(lambda: engine_file.read(path))
    if result:
        _, sidecar = result
        assert sidecar.sha256 == SIDECAR.sha256
        assert 1 <= sidecar.profile[0] <= sidecar.profile[1] <= sidecar.profile[2] <= 65_536
        check_contract(sidecar.contract)


# ---- checkpoints, weights of others ----

TENSORS = st.sampled_from([
    torch.zeros(0), torch.zeros(()), torch.zeros(2, 3), torch.full((3,), math.nan), torch.zeros(3, dtype=torch.int64),
    torch.zeros(2, dtype=torch.complex64), torch.zeros(2, 2).to_sparse(), torch.empty(3, device="meta"),
])  # fmt: skip
FIELDS = {
    "contract": CONTRACT.to_json(),
    "state": {"backbone.a": torch.zeros(2, 3), "neck.weight": torch.zeros(3)},
    "num_ids": 4,
    "last_stride": 1,
    "neck": "bnneck",
    "data": ["somewhere"],
    "stem": "torchvision",
    "kind": checkpoint.KIND,
}


def save(fields: Any, path: Path) -> Path:
    torch.save(fields, path)
    return path


@examples(150)
@given(changes=mutations(VALUES | TENSORS))
def test_checkpoint_fields(changes: list[tuple[int, str, Any]], tmp_path: Path) -> None:
    path = save(change_document(FIELDS, changes), tmp_path / "model.pt")
    saved = read_or_refuse(lambda: checkpoint.load(path))
    if saved:
        check_contract(saved.contract)
        assert all(isinstance(value, torch.Tensor) for value in saved.state.values())
        assert read_or_refuse(saved.build) is None  # two tensors are no MobileNetV2


@examples(150)
@given(edit=EDITS)
def test_checkpoint_bytes(edit: Edit, tmp_path: Path) -> None:
    content = save(FIELDS, tmp_path / "whole.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(edit(content))
    read_or_refuse(lambda: checkpoint.load(tmp_path / "model.pt"))


@pytest.fixture(scope="module")
def network() -> ReID:
    torch.manual_seed(0)
    return ReID("mobilenet_v2", 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_ids": 10_000_000},
        {"last_stride": 3},
        {"last_stride": True},
        {"neck": "no such neck"},
        {"stem": "no-relu"},
        {"data": [1]},
        {"num_ids": -1},
        {"contract": dataclasses.replace(CONTRACT, arch="resnet18").to_json()},
        {"contract": dataclasses.replace(CONTRACT, arch="nobody").to_json()},
        {"state": {"classifier.weight": torch.zeros(4, 1280)}},
        {"state": None},
        {"kind": torch.zeros(2)},
        {"contract": DEEP},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_checkpoint_that_does_not_fit_itself(changes: dict[str, Any], network: ReID, tmp_path: Path) -> None:
    fields = {**FIELDS, "state": network.state_dict(), **changes}
    if changes.get("contract") is DEEP:
        fields["contract"] = "[" * 5000
    path = save(fields, tmp_path / "model.pt")
    assert read_or_refuse(lambda: checkpoint.load(path).build()) is None


@examples(150)
@given(changes=mutations(VALUES | TENSORS), wrapper=st.sampled_from(["", "state_dict", "model"]))
def test_foreign_weights(changes: list[tuple[int, str, Any]], wrapper: str, network: ReID, tmp_path: Path) -> None:
    foreign = {
        "backbone.conv1.weight": torch.zeros(2, 3),
        "heads.bottleneck.0.weight": torch.zeros(3),
        "heads.classifier.weight": torch.zeros(2, 3),
        "pixel_mean": torch.zeros(3),
        "pixel_std": torch.ones(3),
    }
    mutated = change_document(foreign, changes)
    path = save({wrapper: mutated} if wrapper else mutated, tmp_path / "foreign.pth")
    assert read_or_refuse(lambda: import_checkpoint(path)) is None
    assert read_or_refuse(lambda: load_weights(network, checkpoint.load_tensors(path), str(path)) or True) is None


def test_weights_with_keys_that_are_no_text(network: ReID, tmp_path: Path) -> None:
    for weights in ({1: torch.zeros(2)}, {"state_dict": {1: torch.zeros(2)}}, {"kind": checkpoint.KIND, "state": 3}):
        path = save(weights, tmp_path / "weights.pth")
        assert read_or_refuse(lambda: import_checkpoint(path)) is None  # noqa: B023
        assert read_or_refuse(lambda: load_weights(network, checkpoint.load_tensors(path), "x")) is None  # noqa: B023


# ---- files of a run ----


def small_state() -> TrainingState:
    """The state of a training whose network has six weights."""
    model, center = nn.Linear(2, 3), CenterLoss(2, 3)
    adam, sgd = torch.optim.Adam(model.parameters(), lr=0.1), torch.optim.SGD(center.parameters(), lr=0.5)
    state = TrainingState(model, center, adam, sgd, torch.amp.GradScaler("cpu", enabled=False))  # type: ignore[arg-type]
    loss = model(torch.ones(1, 2)).sum() + center(torch.ones(2, 3), torch.tensor([0, 1]))
    loss.backward()
    adam.step()
    sgd.step()
    state.epoch, state.metrics = 3, [EpochMetrics(epoch=1, lr=0.1, id_loss=2.0), EpochMetrics(epoch=2)]
    return state


@examples(150)
@given(changes=mutations(VALUES | TENSORS))
def test_training_state(changes: list[tuple[int, str, Any]], tmp_path: Path) -> None:
    before = small_state()
    save_state(before, tmp_path / "whole.pt")
    fields = torch.load(tmp_path / "whole.pt", weights_only=True)
    path = save(change_document(fields, changes), tmp_path / "state.pt")
    state = small_state()

    def restore() -> bool:
        restore_state(state, path)
        return True

    if read_or_refuse(restore):  # what was accepted can go on
        assert 0 <= state.epoch <= 1_000_000
        state.model(torch.ones(1, 2)).sum().backward()
        state.optimizer.step()
        state.center_optimizer.step()


def test_an_untouched_state_comes_back(tmp_path: Path) -> None:
    before, after = small_state(), small_state()
    save_state(before, tmp_path / "state.pt")
    after.metrics, after.epoch = [], 0
    restore_state(after, tmp_path / "state.pt")
    assert (after.epoch, after.metrics) == (before.epoch, before.metrics)
    for ours, theirs in zip(after.model.parameters(), before.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(after.optimizer.state[ours]["exp_avg"], before.optimizer.state[theirs]["exp_avg"])


CONFIG = f'{to_toml(Recipe())}\n[data]\nsources = ["people"]\ncrops = 4\nfingerprint = "f"\n'


@examples(150)
@given(edit=EDITS | st.just(Edit(0.3, 1, "overwrite", b"[" * 40)))
def test_config(edit: Edit, tmp_path: Path) -> None:
    path = tmp_path / run_files.CONFIG_NAME
    path.write_bytes(edit(CONFIG.encode()))
    read_or_refuse(lambda: load_recipe(path))
    result = read_or_refuse(lambda: run_files.read_config(tmp_path))
    if result:
        assert all(isinstance(source, str) for source in result.sources)


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 20_000,
        "epochs = 1" + "0" * 400,
        "lr = 1" + "0" * 400,
        "lr = nan",
        "lr = inf",
        "epochs = 10_000_000",
        "height = 100_000",
        "seed = 99_999_999_999_999_999_999",
        "last_stride = 3",
        "milestones = [[1]]",
        "epochs = true",
        '[data]\nsources = [1]\nfingerprint = ""',
        "data = 3",
        "\ufeff\0",
    ],
    ids=lambda text: text[:24],
)
def test_config_with_wrong_numbers(text: str, tmp_path: Path) -> None:
    path = tmp_path / run_files.CONFIG_NAME
    path.write_text(text)
    assert read_or_refuse(lambda: run_files.read_config(tmp_path)) is None
    if not text.startswith("[data]"):
        assert read_or_refuse(lambda: load_recipe(path)) is None


@pytest.mark.parametrize("name", ["config.toml", "model.pt", "model.engine"])
def test_a_pipe_is_not_opened(name: str, tmp_path: Path) -> None:
    import os

    path = tmp_path / name
    if name == "model.engine":
        path.write_bytes(b"an engine")
        os.mkfifo(engine_file.sidecar_path(path))
    else:
        os.mkfifo(path)
    reads = {"config.toml": load_recipe, "model.pt": checkpoint.load, "model.engine": engine_file.read}
    assert read_or_refuse(lambda: reads[name](path)) is None


@pytest.mark.parametrize("steps", [-1.0, math.nan, math.inf])
def test_a_number_of_steps_that_cannot_be_is_refused(steps: float, tmp_path: Path) -> None:
    save_state(small_state(), tmp_path / "state.pt")
    fields = torch.load(tmp_path / "state.pt", weights_only=True)
    fields["optimizer"]["state"][0]["step"] = torch.tensor(steps)  # Adam divides by 1 - beta ** (steps + 1)
    with pytest.raises(InputError, match="number of steps"):
        restore_state(small_state(), save(fields, tmp_path / "changed.pt"))
