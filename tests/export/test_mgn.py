"""MGN of fast-reid, against plain forward passes of a ResNet for each branch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toolkits import State, conv, gem, norm, normed, pictures, resnet, run_resnet
from torch import Tensor
from torch.nn import functional as fn

from bot_deploy import open_embedder
from bot_deploy.errors import InputError
from bot_deploy.export.importers.inference_only import build_embedder, build_network, import_for_inference

HEADS = ("b1", "b2", "b3", "b21", "b22", "b31", "b32", "b33")
DIM, SIZE = 8, (128, 32)
PLACES = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2")  # of fast-reid's Sequential
PIXELS = (torch.tensor([120.0, 110, 100]), torch.tensor([60.0, 55, 50]))


def mgn() -> tuple[State, list[State]]:
    """A state dict, and the ResNets of its three branches; their starts are the same."""
    torch.manual_seed(0)
    whole = [resnet(50, ibn=True) for _ in range(3)]
    state: State = {"pixel_mean": PIXELS[0].view(1, 3, 1, 1), "pixel_std": PIXELS[1].view(1, 3, 1, 1)}
    for key, value in whole[0].items():
        part, _, rest = key.partition(".")
        if part in PLACES:
            state[f"backbone.{PLACES.index(part)}.{rest}"] = value
        elif key.startswith("layer3.0."):
            state[f"backbone.6.{key.removeprefix('layer3.0.')}"] = value
    branches = []
    for number, backbone in enumerate(whole, 1):
        end = {key: value for key, value in backbone.items() if key.startswith(("layer3", "layer4"))}
        end = {key: value for key, value in end.items() if not key.startswith("layer3.0.")}
        for key, value in end.items():
            stage, block, rest = key.split(".", 2)
            place = f"0.{int(block) - 1}" if stage == "layer3" else f"1.{block}"
            state[f"b{number}.{place}.{rest}"] = value
        branches.append({**whole[0], **end})
    for index, head in enumerate(HEADS):
        state[f"{head}_head.pool_layer.p"] = torch.tensor([2.0 + index / 4])
        state[f"{head}_head.bottleneck.0.weight"] = conv(DIM, 2048, 1)
        state |= norm(f"{head}_head.bottleneck.1", DIM)
        state[f"{head}_head.weight"] = torch.randn(5, DIM)
    return state, branches


def embed(images: Tensor, state: State, branches: list[State], *, after: bool) -> Tensor:
    pixels = ((images - PIXELS[0]) / PIXELS[1]).permute(0, 3, 1, 2)
    first, second, third = (run_resnet(pixels, net, last_stride=1, relu=True, padded=False) for net in branches)
    assert first.shape[2:] == (8, 2)
    halves, thirds = (second[:, :, :4], second[:, :, 4:]), (third[:, :, :3], third[:, :, 3:6], third[:, :, 6:])
    maps = [first, second, third, *halves, *thirds]
    vectors = []
    for head, features in zip(HEADS, maps, strict=True):
        pooled = gem(features, float(state[f"{head}_head.pool_layer.p"]))
        reduced = pooled @ state[f"{head}_head.bottleneck.0.weight"][:, :, 0, 0].T
        vectors.append(normed(reduced, state, f"{head}_head.bottleneck.1") if after else reduced)
    return fn.normalize(torch.cat(vectors, 1))


def test_the_network_embeds_as_the_formulas_do(tmp_path: Path) -> None:
    state, branches = mgn()
    torch.save({"model": state}, tmp_path / "theirs.pth")
    parts, _, embedder = build_embedder(tmp_path / "theirs.pth", SIZE)
    assert (parts.arch, parts.feature, parts.dim) == ("mgn-resnet50_ibn_a", "after", 8 * DIM)
    assert parts.assumptions == ("stem unpadded-pool", "last stride 1")
    assert set(parts.unused) == {f"{head}_head.weight" for head in HEADS}
    images = pictures(size=SIZE)
    vectors = embedder.embed(list(images.numpy()))
    np.testing.assert_allclose(vectors, embed(images, state, branches, after=True).numpy(), atol=5e-5)
    before = embed(images, state, branches, after=False)
    assert float((torch.from_numpy(vectors) * before).sum(1).max()) < 0.99
    _, _, embedder = build_embedder(tmp_path / "theirs.pth", SIZE, feature="before")
    np.testing.assert_allclose(embedder.embed(list(images.numpy())), before.numpy(), atol=5e-5)


@pytest.mark.slow  # PyTorch's exporter takes a minute for three ResNet-50
def test_the_model_file_embeds_as_the_formulas_do(tmp_path: Path) -> None:
    state, branches = mgn()
    torch.save(state, tmp_path / "theirs.pth")
    imported = import_for_inference(tmp_path / "theirs.pth", tmp_path / "ours.onnx", size=SIZE)
    assert not imported.model.rejected
    images = pictures(size=SIZE)
    vectors = open_embedder(tmp_path / "ours.onnx").embed(list(images.numpy()))
    np.testing.assert_allclose(vectors, embed(images, state, branches, after=True).numpy(), atol=5e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": torch.zeros(1)}, "unknown keys: extra"),
        ({"b1_head.bottleneck.0.weight": torch.zeros(8)}, "an MGN without reduced embeddings"),
        ({"b1_head.bottleneck.0.weight": torch.zeros(())}, r"has the shape \[\]; 1 to 4,096 channels"),
        ({"b1_head.bottleneck.0.weight": torch.zeros(9000, 1, 1, 1)}, "1 to 4,096 channels"),
        ({"b3_head.bottleneck.1.bias": torch.zeros(7)}, "another shape: b3_head.bottleneck.1.bias, where .* 8 numbers"),
        ({"b1_head.pool_layer.p": None}, "whose pooling has no trained power"),
        ({"b33_head.bottleneck.1.bias": None}, "missing keys: b33_head.bottleneck.1.bias"),
        ({"b3.1.2.conv3.weight": None}, "missing keys: b3.1.2.conv3.weight"),
        ({"b1.0.5.conv1.weight": torch.zeros(1)}, "another backbone than resnet50 and resnet101"),
    ],
)
def test_other_weights_are_refused(change: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    state = {key: value for key, value in {**mgn()[0], **change}.items() if value is not None}
    torch.save(state, tmp_path / "theirs.pth")
    with pytest.raises(InputError, match=message):
        build_network(tmp_path / "theirs.pth", SIZE)


def test_a_size_without_three_stripes_is_refused(tmp_path: Path) -> None:
    torch.save(mgn()[0], tmp_path / "theirs.pth")
    with pytest.raises(InputError, match="cannot embed crops of 32x32; name the size it was trained on"):
        import_for_inference(tmp_path / "theirs.pth", tmp_path / "new" / "ours.onnx", size=(32, 32))
    assert not (tmp_path / "new").exists()
