"""Initial weights: every kind of file, and errors for files that do not fit."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import pytest
import torch
from helpers.networks import assert_sees_edges
from safetensors.torch import load_file, save_file
from torchvision import models

from bot_deploy.artifacts import checkpoint
from bot_deploy.artifacts.checkpoint import contract_of
from bot_deploy.errors import InputError, RunError
from bot_deploy.model import ReID
from bot_deploy.train import weights

if TYPE_CHECKING:
    from torch import Tensor

REAL = Path(__file__).resolve().parents[3] / "shared" / "weights" / "mobilenet_v2-imagenet-features.safetensors"
ARCH = "mobilenet_v2"  # the smallest
HEADS = ("fc.", "classifier.")


def torchvision_state(arch: str, num_classes: int = 1000, seed: int = 7) -> dict[str, Tensor]:
    """Random weights with torchvision's keys. Batch-norm statistics are random too, so that all tensors differ."""
    torch.manual_seed(seed)
    state: dict[str, Tensor] = getattr(models, arch)(weights=None, num_classes=num_classes).state_dict()
    return {
        key: torch.rand_like(value) if value.is_floating_point() else torch.tensor(seed) for key, value in state.items()
    }


def write(path: Path, state: dict[str, Any]) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def assert_backbone_is(model: ReID, state: dict[str, Tensor]) -> None:
    """Asserts that the backbone has exactly the tensors of `state`, which has torchvision's keys and a head."""
    own = model.backbone.state_dict()
    given = {key: value for key, value in state.items() if not key.startswith(HEADS)}
    assert set(own) == set(given)
    for key, value in given.items():
        assert torch.equal(own[key], value), key


def copy_of(model: ReID) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def own_checkpoint(path: Path, num_ids: int, *, neck: str = "bnneck", seed: int = 3) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model = ReID(ARCH, num_ids, neck=neck)
    model.load_state_dict(
        {k: torch.rand_like(v) if v.is_floating_point() else torch.tensor(seed) for k, v in model.state_dict().items()}
    )
    contract = contract_of(model, 32, 16)
    checkpoint.save(checkpoint.Checkpoint(contract, model.state_dict(), num_ids, 1, neck, ("nothing",)), path)
    return model.state_dict()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
@pytest.mark.parametrize("arch", ["resnet18", ARCH])
def test_a_file_in_torchvisions_layout_fills_the_backbone(arch: str, suffix: str, tmp_path: Path) -> None:
    state = torchvision_state(arch)
    model = ReID(arch, 5)
    before = copy_of(model)
    weights.initialize(model, str(write(tmp_path / f"weights{suffix}", state)))
    assert_backbone_is(model, state)
    for key in ("neck.weight", "neck.running_var", "classifier.weight"):
        assert torch.equal(model.state_dict()[key], before[key])


@pytest.mark.parametrize("arch", ["resnet18", ARCH])
@pytest.mark.parametrize("classes", [5, 7])
def test_the_head_in_the_file_is_ignored(arch: str, classes: int, tmp_path: Path) -> None:
    state = torchvision_state(arch, classes)
    assert any(key.startswith(HEADS) for key in state)
    model = ReID(arch, 5, neck="none")
    before = copy_of(model)
    weights.initialize(model, str(write(tmp_path / "w.pth", state)))
    assert_backbone_is(model, state)
    assert torch.equal(model.classifier.weight, before["classifier.weight"])
    assert torch.equal(model.classifier.bias, before["classifier.bias"])


def test_training_starts_without_gem_and_reduction(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = ReID(ARCH, 5, pooling="gem", reduced_dim=1280)  # as long as before, so that the neck would fit
    source.neck.weight.data.fill_(7)  # type: ignore[union-attr,operator]
    contract = contract_of(source, 32, 16)
    saved = checkpoint.Checkpoint(
        contract, source.state_dict(), 5, 1, "bnneck", (), pooling="gem", reduced_dim=contract.dim
    )
    checkpoint.save(saved, tmp_path / "model.pt")
    model = ReID(ARCH, 4)
    weights.initialize(model, str(tmp_path / "model.pt"))
    assert_backbone_is(model, dict(source.backbone.state_dict()))
    assert model.neck.weight.tolist() == [1] * 1280  # type: ignore[union-attr,operator]


def test_counters_of_old_files_may_be_missing(tmp_path: Path) -> None:
    state = {k: v for k, v in torchvision_state(ARCH).items() if not k.endswith("num_batches_tracked")}
    model = ReID(ARCH, 5)
    weights.initialize(model, str(write(tmp_path / "w.pth", state)))
    assert torch.equal(model.backbone.state_dict()["features.0.0.weight"], state["features.0.0.weight"])


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    state = {
        key: value.half() if value.is_floating_point() else value for key, value in torchvision_state(ARCH).items()
    }
    model = ReID(ARCH, 5)
    weights.initialize(model, str(write(tmp_path / "w.safetensors", state)))
    own = model.backbone.state_dict()["features.0.0.weight"]
    assert own.dtype == torch.float32
    assert torch.equal(own, state["features.0.0.weight"].float())


def test_none_changes_nothing() -> None:
    model = ReID(ARCH, 5)
    before = copy_of(model)
    weights.initialize(model, "none")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("num_ids", [5, 9])
def test_our_own_checkpoint_loads_with_or_without_its_classifier(num_ids: int, tmp_path: Path) -> None:
    state = own_checkpoint(tmp_path / "model.pt", 5)
    model = ReID(ARCH, num_ids)
    before = copy_of(model)
    weights.initialize(model, str(tmp_path / "model.pt"))
    after = model.state_dict()
    for key in state.keys() - {"classifier.weight"}:
        assert torch.equal(after[key], state[key]), key
    expected = state if num_ids == 5 else before
    assert torch.equal(after["classifier.weight"], expected["classifier.weight"])


def test_our_own_checkpoint_without_a_neck_lists_the_missing_keys(tmp_path: Path) -> None:
    own_checkpoint(tmp_path / "model.pt", 5, neck="none")
    with pytest.raises(
        InputError, match=r"missing keys: neck\.weight, neck\.bias, neck\.running_mean, neck\.running_var$"
    ):
        weights.initialize(ReID(ARCH, 5), str(tmp_path / "model.pt"))


def test_a_refused_file_changes_nothing(tmp_path: Path) -> None:
    state = torchvision_state(ARCH)
    del state["features.1.conv.0.0.weight"]
    model = ReID(ARCH, 5)
    before = copy_of(model)
    with pytest.raises(InputError):
        weights.initialize(model, str(write(tmp_path / "w.pth", state)))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_missing_keys_are_listed(tmp_path: Path) -> None:
    state = torchvision_state("resnet18")
    del state["bn1.weight"], state["layer4.1.conv2.weight"]
    with pytest.raises(InputError, match=r"missing keys: backbone\.bn1\.weight, backbone\.layer4\.1\.conv2\.weight$"):
        weights.initialize(ReID("resnet18", 5), str(write(tmp_path / "w.pth", state)))


def test_unknown_keys_are_listed(tmp_path: Path) -> None:
    state = {**torchvision_state("resnet18"), "layer5.weight": torch.zeros(1), "epoch": torch.zeros(1)}
    with pytest.raises(InputError, match=r"unknown keys: backbone\.layer5\.weight, backbone\.epoch$"):
        weights.initialize(ReID("resnet18", 5), str(write(tmp_path / "w.pth", state)))


def test_other_shapes_are_listed(tmp_path: Path) -> None:
    state = {**torchvision_state("resnet18"), "conv1.weight": torch.zeros(64, 1, 7, 7)}
    words = r"keys of another shape: backbone\.conv1\.weight \[64, 1, 7, 7\] instead of \[64, 3, 7, 7\]$"
    with pytest.raises(InputError, match=words):
        weights.initialize(ReID("resnet18", 5), str(write(tmp_path / "w.pth", state)))


def test_the_error_for_another_backbone_names_the_file_and_the_backbone(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth", torchvision_state("resnet18"))
    with pytest.raises(
        InputError, match=r"w\.pth: weights of resnet18, not of mobilenet_v2; set arch=resnet18$"
    ) as caught:
        weights.initialize(ReID(ARCH, 5), str(path))
    assert len(str(caught.value)) < 2000


class Touch:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_the_trap_runs_when_it_is_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Touch(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("layout", ["zip", "legacy", "plain pickle"])
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_a_pickle_with_code_is_refused_and_not_run(layout: str, suffix: str, tmp_path: Path) -> None:
    path, trap = tmp_path / f"w{suffix}", {"conv1.weight": Touch(tmp_path / "ran")}
    if layout == "plain pickle":
        path.write_bytes(pickle.dumps(trap, protocol=2))
    else:
        torch.save(trap, path, _use_new_zipfile_serialization=layout == "zip")
    with pytest.raises(InputError, match=r"w\.ptn?h?: .*could run code; it is refused"):
        weights.initialize(ReID(ARCH, 5), str(path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [[1, 2], torch.zeros(3), 7])
def test_a_file_that_holds_no_dictionary(value: object, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth: holds a (list|Tensor|int), not a state dict"):
        weights.initialize(ReID(ARCH, 5), str(tmp_path / "w.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "noise"])
def test_a_damaged_file(damage: str, suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"w{suffix}", torchvision_state(ARCH))
    data = path.read_bytes()
    path.write_bytes(
        {"truncated": data[: len(data) // 2], "empty": b"", "text": b"<!doctype html>\n", "noise": bytes(range(256))}[
            damage
        ]
    )
    with pytest.raises(InputError, match=rf"w\{suffix}: (damaged|not a readable weights file)"):
        weights.initialize(ReID(ARCH, 5), str(path))


@pytest.mark.parametrize("name", ["absent.pth", "absent.safetensors", "image-net"])
def test_no_such_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{name}: no such file"):
        weights.initialize(ReID(ARCH, 5), str(tmp_path / name))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a folder without model\.pt; name a run, or a file of weights"):
        weights.initialize(ReID(ARCH, 5), str(tmp_path))


def test_the_folder_of_a_run_stands_for_its_checkpoint(tmp_path: Path) -> None:
    model = ReID("resnet18", 5)
    fields = {"kind": checkpoint.KIND, "state": model.state_dict()}
    torch.save(fields, tmp_path / "model.pt")
    other = ReID("resnet18", 7)
    weights.initialize(other, str(tmp_path))
    assert all(
        torch.equal(value, other.backbone.state_dict()[key]) for key, value in model.backbone.state_dict().items()
    )


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnet50_ibn_a"])
def test_a_checkpoint_of_another_backbone_names_it(arch: str, tmp_path: Path) -> None:
    model = ReID(arch, 5)
    saved = checkpoint.Checkpoint(checkpoint.contract_of(model, 32, 16), model.state_dict(), 5, 1, "bnneck", ("x",))
    checkpoint.save(saved, tmp_path / "model.pt")
    with pytest.raises(InputError, match=rf"weights of {arch}, not of mobilenet_v2; set arch={arch}$") as caught:
        weights.initialize(ReID(ARCH, 5), str(tmp_path))
    assert caught.value.parameter == "set"


@pytest.mark.parametrize(("arch", "enum"), [("resnet18", models.ResNet18_Weights), (ARCH, models.MobileNet_V2_Weights)])
def test_imagenet_downloads_the_first_version_of_the_weights(
    arch: str, enum: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads, state = [], torchvision_state(arch)

    def get_state_dict(self: object, *args: object, **options: object) -> dict[str, Tensor]:
        downloads.append((self, options.get("check_hash")))
        return state

    monkeypatch.setattr(enum, "get_state_dict", get_state_dict)
    model = ReID(arch, 5)
    weights.initialize(model, "imagenet")
    assert_backbone_is(model, state)
    assert downloads == [(enum.IMAGENET1K_V1, True)]


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50", "resnet101", ARCH])
def test_torchvision_has_imagenet_weights_for_every_backbone(arch: str) -> None:
    assert "IMAGENET1K_V1" in models.get_model_weights(arch).__members__


@pytest.mark.parametrize(
    "error", [URLError("no route to host"), TimeoutError("timed out"), RuntimeError("invalid hash value")]
)
def test_imagenet_without_network_names_the_remedy(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def get_state_dict(self: object, *args: object, **options: object) -> dict[str, Tensor]:
        raise error

    monkeypatch.setattr(models.MobileNet_V2_Weights, "get_state_dict", get_state_dict)
    with pytest.raises(RunError, match=r"could not be downloaded.*give a file, or .none.") as raised:
        weights.initialize(ReID(ARCH, 5), "imagenet")
    assert raised.value.parameter == "weights"


@pytest.mark.parametrize("is_cached", [True, False])
def test_offline_takes_imagenet_weights_from_the_cache_only(
    is_cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, state = models.MobileNet_V2_Weights.IMAGENET1K_V1, torchvision_state(ARCH)
    monkeypatch.setattr(models.MobileNet_V2_Weights, "get_state_dict", lambda *_, **__: state)
    monkeypatch.setenv("BOT_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    model = ReID(ARCH, 5)
    if is_cached:
        (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
        (tmp_path / "hub" / "checkpoints" / Path(chosen.url).name).touch()
        weights.initialize(model, "imagenet")
        assert_backbone_is(model, state)
    else:
        with pytest.raises(InputError, match=rf"BOT_OFFLINE forbids .*; fetch {chosen.url} by hand into {tmp_path}"):
            weights.initialize(model, "imagenet")


@pytest.mark.skipif(not REAL.exists(), reason=f"no weights at {REAL}")
def test_real_imagenet_weights() -> None:
    model = ReID(ARCH, 5)
    weights.initialize(model, str(REAL))
    assert_backbone_is(model, load_file(REAL))
    assert_sees_edges(model)


def test_instance_norm_starts_at_its_initial_values_with_torchvisions_weights(tmp_path: Path) -> None:
    state = torchvision_state(ARCH)
    model = ReID(f"{ARCH}_in", 5)
    weights.initialize(model, str(write(tmp_path / "weights.pth", state)))
    own = model.backbone.state_dict()
    for key, value in own.items():
        if "_in." in key:
            assert torch.equal(value, torch.ones_like(value) if key.endswith("weight") else torch.zeros_like(value))
        else:
            assert torch.equal(value, state[key])
    del state["features.18.0.weight"]
    with pytest.raises(InputError, match="missing keys"):
        weights.initialize(model, str(write(tmp_path / "damaged.pth", state)))
