"""Backbones of timm: feature maps, normalisation, weights and errors."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.networks import assert_sees_edges
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bot_deploy.artifacts import checkpoint
from bot_deploy.artifacts.checkpoint import Checkpoint, contract_of
from bot_deploy.datasets import open_dataset
from bot_deploy.errors import InputError, RunError
from bot_deploy.model import ReID
from bot_deploy.timm_backbone import download_weights, fit_weights
from bot_deploy.train import loop, transforms, weights
from bot_deploy.train.recipe import Recipe

timm = pytest.importorskip("timm", reason="needs timm, of the extra `timm`")

REAL = Path(__file__).resolve().parents[2] / "shared" / "weights" / "efficientnet_lite0-imagenet-features.safetensors"
CNN, VIT = "timm:test_efficientnet", "timm:test_vit"  # the smallest


@pytest.mark.parametrize(
    ("name", "last_stride", "expected"),
    [
        ("efficientnet_lite0", 1, (1280, 8, 4)),
        ("efficientnet_lite0", 2, (1280, 4, 2)),
        ("test_convnext", 1, (64, 8, 4)),
        ("mobilenetv4_conv_small", 1, (1280, 4, 2)),  # timm has no output stride for it
        ("test_vit", 1, (64, 8, 4)),
        ("test_mambaout", 1, (256, 4, 2)),  # [N, H, W, C] in timm
    ],
)
def test_the_feature_map(name: str, last_stride: int, expected: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = ReID(f"timm:{name}", 5, last_stride=last_stride, size=(128, 64)).eval()
        assert model.backbone(torch.zeros(2, 3, 128, 64)).shape == (2, *expected)
    assert model.dim == expected[0]
    assert model.classifier.weight.shape == (5, expected[0])


@pytest.mark.parametrize(("name", "stages"), [("test_efficientnet", 4), ("test_convnext", 3), ("test_resnet", 4)])
def test_instance_norm_follows_every_stage_but_the_last(name: str, stages: int) -> None:
    torch.manual_seed(1)
    plain, normed = ReID(f"timm:{name}", 5).eval(), ReID(f"timm:{name}+in", 5).eval()
    assert (plain.dim, plain.mean) == (normed.dim, normed.mean)
    added = [key for key in normed.state_dict() if ".instance_norm." in key]
    assert len(added) == 2 * stages
    theirs: Any = plain.backbone.net
    fitted = fit_weights(normed.backbone.net, name, theirs.state_dict())
    normed.backbone.net.load_state_dict({**normed.backbone.net.state_dict(), **fitted})  # type: ignore[union-attr]
    places = [stage["module"] for stage in theirs.feature_info][:-1]
    assert len(places) == stages

    def normalise(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        values = output.numpy()  # Jia et al., BMVC 2019: each channel of each image gets mean 0 and variance 1
        mean, var = values.mean((2, 3), keepdims=True), values.var((2, 3), keepdims=True)
        return torch.from_numpy((values - mean) / np.sqrt(var + 1e-5))

    for place in places:
        theirs.get_submodule(place).register_forward_hook(normalise)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        np.testing.assert_allclose(normed.backbone(images).numpy(), plain.backbone(images).numpy(), atol=1e-3)


def test_instance_norm_starts_at_its_initial_values_with_timms_weights(tmp_path: Path) -> None:
    state = timm.create_model("test_efficientnet").state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    model = ReID(f"{CNN}+in", 5)
    weights.initialize(model, str(tmp_path / "weights.safetensors"))
    own = model.backbone.state_dict()
    loaded = 0
    for key, value in own.items():
        if ".instance_norm." in key:
            assert torch.equal(value, torch.ones_like(value) if key.endswith("weight") else torch.zeros_like(value))
        else:
            assert torch.equal(value, state[key.removeprefix("net.").replace(".stage.", ".")])
            loaded += 1
    assert loaded == len(state) - 2  # all but the classifier
    del state["conv_stem.weight"]
    save_file(state, tmp_path / "some.safetensors")
    with pytest.raises(InputError, match="missing keys"):
        weights.initialize(model, str(tmp_path / "some.safetensors"))


@pytest.mark.parametrize("name", ["test_vit", "test_mambaout"])
def test_networks_without_stages_of_convolutions_have_no_instance_norm(name: str) -> None:
    with pytest.raises(InputError, match=r"has no stages of convolutions.*leave \+in out of its name"):
        ReID(f"timm:{name}+in", 5, size=(64, 64))


def test_a_cnn_at_its_own_stride_is_timms() -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("test_efficientnet").eval()
    model = ReID(CNN, 5, last_stride=2).eval()
    net: Any = model.backbone.net
    net.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("classifier.")})
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model.backbone(images), theirs.forward_features(images))


def test_tokens_become_the_map_that_the_patches_came_from() -> None:
    torch.manual_seed(0)
    model = ReID(VIT, 5, size=(96, 32)).eval()
    net: Any = model.backbone.net
    images = torch.randn(2, 3, 96, 32)
    with torch.inference_mode():
        tokens, features = net.forward_features(images), model.backbone(images)
    assert tokens.shape == (2, 1 + 6 * 2, 64)  # the class token, then 16x16 patches row by row
    assert features.shape == (2, 64, 6, 2)
    for row in range(6):
        for column in range(2):
            assert torch.equal(features[:, :, row, column], tokens[:, 1 + 2 * row + column])


@pytest.mark.parametrize(
    ("arch", "mean"), [(VIT, (0.5, 0.5, 0.5)), (CNN, (0.485, 0.456, 0.406)), ("resnet18", (0.485, 0.456, 0.406))]
)
def test_the_contract_has_the_networks_own_normalisation(arch: str, mean: tuple[float, ...]) -> None:
    contract = contract_of(ReID(arch, 5, size=(64, 32)), 64, 32)
    assert (contract.arch, contract.mean) == (arch, mean)
    assert contract.std == ((0.5, 0.5, 0.5) if arch == VIT else (0.229, 0.224, 0.225))


def test_training_normalises_as_the_contract_says(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def record(images: Tensor, mean: object, std: object) -> Tensor:
        seen.append((mean, std))
        return images.permute(0, 3, 1, 2) / 255

    monkeypatch.setattr(transforms, "normalize_pixels", record)
    recipe = Recipe(arch=VIT, weights="none", height=32, width=16, epochs=1, identities_per_batch=4, precision="fp32")
    path = loop.train(recipe, open_dataset(people), tmp_path / "run")
    contract = checkpoint.load(path).contract
    assert set(seen) == {(contract.mean, contract.std)} == {((0.5,) * 3, (0.5,) * 3)}
    image = torch.full((1, 2, 2, 3), 51, dtype=torch.uint8)
    monkeypatch.undo()
    assert transforms.normalize_pixels(image, (0.5, 0.0, 0.1), (0.5, 1.0, 0.2)).flatten(2)[
        0, :, 0
    ].tolist() == pytest.approx([-0.6, 0.2, 0.5])


# ---- weights ----


def randomised(net: nn.Module, seed: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for key, value in net.state_dict().items()
    }


def test_a_file_in_timms_layout_fills_the_backbone(tmp_path: Path) -> None:
    state = randomised(timm.create_model("test_efficientnet"))
    save_file(state, tmp_path / "weights.safetensors")
    model = ReID(CNN, 5)
    weights.initialize(model, str(tmp_path / "weights.safetensors"))
    own = model.backbone.state_dict()
    assert set(own) == {f"net.{key}" for key in state if not key.startswith("classifier.")}
    assert all(torch.equal(value, state[key.removeprefix("net.")]) for key, value in own.items())


def test_the_position_embedding_is_resized(tmp_path: Path) -> None:
    state = randomised(timm.create_model("test_vit"))  # for images of 160x160: a grid of 10x10
    save_file(state, tmp_path / "weights.safetensors")
    model = ReID(VIT, 5, size=(128, 64))
    weights.initialize(model, str(tmp_path / "weights.safetensors"))
    own = model.backbone.state_dict()
    embedding = own.pop("net.pos_embed")
    assert all(torch.equal(value, state[key.removeprefix("net.")]) for key, value in own.items())
    grid = state["pos_embed"][:, 1:].reshape(1, 10, 10, 64).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(grid, (8, 4), mode="bicubic", antialias=True)
    assert torch.equal(embedding[:, :1], state["pos_embed"][:, :1])
    torch.testing.assert_close(embedding[:, 1:], resized.permute(0, 2, 3, 1).flatten(1, 2))


def test_a_run_with_images_of_another_size_is_a_start(tmp_path: Path) -> None:
    first = ReID(VIT, 5, size=(64, 32))
    saved = Checkpoint(contract_of(first, 64, 32), first.state_dict(), 5, 1, "bnneck", ("none",))
    checkpoint.save(saved, tmp_path / "model.pt")
    rebuilt = checkpoint.load(tmp_path / "model.pt").build()
    assert all(torch.equal(value, first.state_dict()[key]) for key, value in rebuilt.state_dict().items())
    second = ReID(VIT, 7, size=(128, 64))
    weights.initialize(second, str(tmp_path))
    old, new = first.state_dict(), second.state_dict()
    changed = {key for key, value in new.items() if not torch.equal(value, old[key])}
    assert changed == {"backbone.net.pos_embed", "classifier.weight"}
    grid = old["backbone.net.pos_embed"][:, 1:].reshape(1, 4, 2, 64).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(grid, (8, 4), mode="bicubic", antialias=True)
    torch.testing.assert_close(new["backbone.net.pos_embed"][:, 1:], resized.permute(0, 2, 3, 1).flatten(1, 2))
    with pytest.raises(InputError, match=r"weights of timm:test_vit, not of resnet18; set arch=timm:test_vit$"):
        weights.initialize(ReID("resnet18", 5), str(tmp_path))


@pytest.mark.parametrize("arch", [CNN, VIT])
def test_the_weights_of_another_network_do_not_fit(arch: str, tmp_path: Path) -> None:
    save_file(timm.create_model("test_convnext").state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=rf"does not fit {arch}: unknown keys: backbone\.net\.") as caught:
        weights.initialize(ReID(arch, 5), str(tmp_path / "weights.safetensors"))
    assert len(str(caught.value)) < 2000


def test_imagenet_is_timms_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    state = randomised(timm.create_model("test_efficientnet"))
    save_file(state, tmp_path / "model.safetensors")
    asked = []

    def hf_hub_download(**options: object) -> str:
        asked.append(options)
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    model = ReID(CNN, 5)
    weights.initialize(model, "imagenet")
    assert torch.equal(model.state_dict()["backbone.net.conv_stem.weight"], state["conv_stem.weight"])
    (options,) = asked
    assert options["repo_id"] == "timm/test_efficientnet.r160_in1k"
    assert options["local_files_only"]


def test_offline_fetches_no_imagenet_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)  # as where `without_telemetry` imports it first
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("it looks for a server"))
    monkeypatch.setenv("BOT_OFFLINE", "1")
    with pytest.raises(InputError, match=r"timm:test_vit are not in the cache, and \$BOT_OFFLINE forbids"):
        download_weights("test_vit")


def test_imagenet_without_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    with pytest.raises(
        RunError, match=r"^the weights of timm:test_vit could not be downloaded.*give a file, or .none."
    ) as raised:
        download_weights("test_vit")
    assert raised.value.parameter == "weights"
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(not REAL.exists(), reason=f"no weights at {REAL}")
def test_real_imagenet_weights() -> None:
    model = ReID("timm:tf_efficientnet_lite0", 5)
    weights.initialize(model, str(REAL))
    own, state = model.backbone.state_dict(), load_file(REAL)
    assert set(own) == {f"net.{key}" for key in state}
    assert all(torch.equal(own[f"net.{key}"], value) for key, value in state.items())
    assert_sees_edges(model)


# ---- errors ----


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("timm:efficientnet_lite00", r"no network 'efficientnet_lite00' \(did you mean timm:efficientnet_lite0\?\)$"),
        ("timm:hf-hub:someone/network", r"has no network 'hf-hub:someone/network'"),  # an address, not a name
        ("timm:test_vit.nosuch", r"timm:test_vit\.nosuch: .*nosuch"),
        ("timm:efficientvit_b0", r"efficientvit_b0 gives no feature map for images of 256x128 \(.*\); choose another"),
        ("timm:volo_d1_224", r"gives no feature map .*129 tokens are no grid"),
    ],
)  # fmt: skip
def test_networks_that_cannot_be_used(arch: str, message: str) -> None:
    with pytest.raises(InputError, match=message), torch.device("meta"):
        ReID(arch, 5)


def test_crops_of_two_sizes_need_a_network_that_takes_them(people: Path, tmp_path: Path) -> None:
    recipe = Recipe(arch=VIT, weights="none", height=32, width=16, epochs=2, small_epochs=1, identities_per_batch=4)
    with pytest.raises(InputError, match=r"timm:test_vit takes images of one size; set small_epochs=0"):
        loop.train(recipe, open_dataset(people), tmp_path / "run")


def test_without_timm_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ReID(CNN, 5)
    saved = Checkpoint(contract_of(model, 64, 32), model.state_dict(), 5, 1, "bnneck", ("none",))
    checkpoint.save(saved, tmp_path / "model.pt")
    monkeypatch.setitem(sys.modules, "timm", None)
    message = r"^timm is not installed; pip install 'bot-deploy\[timm\]'$"
    with pytest.raises(RunError, match=message):
        ReID(CNN, 5)
    with pytest.raises(RunError, match=message):
        checkpoint.load(tmp_path / "model.pt").build()
    assert np.isfinite(float(ReID("mobilenet_v2", 5).state_dict()["backbone.features.0.0.weight"].sum()))
