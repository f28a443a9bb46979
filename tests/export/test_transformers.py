"""TransReID and CLIP-ReID, against plain forward passes by the keys of their authors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.commands import run_bot
from helpers.toolkits import State, norm, pictures
from torch import Tensor
from torch.nn import functional as fn

from bot_deploy import open_embedder
from bot_deploy.errors import InputError
from bot_deploy.export.importers.inference_only import build_embedder, build_network, import_for_inference
from bot_deploy.export.importers.transreid import shuffled_patches

pytest.importorskip("timm", reason="timm is not installed")

WIDTH, DEPTH, HEADS, CAMERAS, IDENTITIES = 128, 2, 2, 4, 5
SIZE = (64, 32)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


# ---- the state dicts ----


def linear(name: str, out: int, inside: int) -> State:
    return {f"{name}.weight": torch.randn(out, inside) / inside**0.5, f"{name}.bias": torch.randn(out) * 0.1}


def layer_norm(name: str, channels: int = WIDTH) -> State:
    return {f"{name}.weight": torch.rand(channels) + 0.5, f"{name}.bias": torch.randn(channels) * 0.1}


def vit_block(name: str) -> State:
    return {
        **layer_norm(f"{name}.norm1"),
        **linear(f"{name}.attn.qkv", 3 * WIDTH, WIDTH),
        **linear(f"{name}.attn.proj", WIDTH, WIDTH),
        **layer_norm(f"{name}.norm2"),
        **linear(f"{name}.mlp.fc1", 4 * WIDTH, WIDTH),
        **linear(f"{name}.mlp.fc2", WIDTH, 4 * WIDTH),
    }


def patch_count(size: tuple[int, int], stride: int) -> int:
    return ((size[0] - 16) // stride + 1) * ((size[1] - 16) // stride + 1)


def transreid(*, stride: int = 16, jigsaw: bool = False, cameras: bool = False) -> State:
    state = {
        "base.cls_token": torch.randn(1, 1, WIDTH),
        "base.pos_embed": torch.randn(1, 1 + patch_count(SIZE, stride), WIDTH),
        "base.patch_embed.proj.weight": torch.randn(WIDTH, 3, 16, 16) / 16,
        "base.patch_embed.proj.bias": torch.randn(WIDTH) * 0.1,
        **layer_norm("base.norm"),
        **linear("base.fc", 10, WIDTH),
        "classifier.weight": torch.randn(IDENTITIES, WIDTH),
        **norm("bottleneck", WIDTH),
    }
    for number in range(DEPTH):
        state |= vit_block(f"base.blocks.{number}")
    if cameras:
        state["base.sie_embed"] = torch.randn(CAMERAS, 1, WIDTH)
    if jigsaw:
        for branch in ("b1", "b2"):
            state |= {**vit_block(f"{branch}.0"), **layer_norm(f"{branch}.1")}
        for part in range(1, 5):
            state |= {f"classifier_{part}.weight": torch.randn(IDENTITIES, WIDTH), **norm(f"bottleneck_{part}", WIDTH)}
    return state


def clip_reid(*, stride: int = 16, cameras: bool = False) -> State:
    projected = 64
    encoder: State = {
        "class_embedding": torch.randn(WIDTH),
        "positional_embedding": torch.randn(1 + patch_count(SIZE, stride), WIDTH),
        "proj": torch.randn(WIDTH, projected) / WIDTH**0.5,
        "conv1.weight": torch.randn(WIDTH, 3, 16, 16) / 16,
        **layer_norm("ln_pre"),
        **layer_norm("ln_post"),
    }
    for number in range(DEPTH):
        name = f"transformer.resblocks.{number}"
        inside = linear(f"{name}.attn.in_proj", 3 * WIDTH, WIDTH)
        encoder |= {key.replace("in_proj.", "in_proj_"): value for key, value in inside.items()}
        encoder |= {
            **linear(f"{name}.attn.out_proj", WIDTH, WIDTH),
            **layer_norm(f"{name}.ln_1"),
            **linear(f"{name}.mlp.c_fc", 4 * WIDTH, WIDTH),
            **linear(f"{name}.mlp.c_proj", WIDTH, 4 * WIDTH),
            **layer_norm(f"{name}.ln_2"),
        }
    state = {f"image_encoder.{key}": value for key, value in encoder.items()}
    state |= {**norm("bottleneck", WIDTH), **norm("bottleneck_proj", projected)}
    state |= {"classifier.weight": torch.randn(5, WIDTH), "classifier_proj.weight": torch.randn(5, projected)}
    state |= {"prompt_learner.cls_ctx": torch.randn(5, 4, 8), "text_encoder.ln_final.weight": torch.randn(8)}
    if cameras:
        state["cv_embed"] = torch.randn(CAMERAS, WIDTH)
    return state


# ---- the forward passes ----


def normed(x: Tensor, state: State, name: str, eps: float) -> Tensor:
    return fn.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def attention(x: Tensor, qkv: tuple[Tensor, Tensor], out: tuple[Tensor, Tensor]) -> Tensor:
    """Head by head, row by row of the formula."""
    queries, keys, values = fn.linear(x, *qkv).chunk(3, -1)
    width = x.shape[-1] // HEADS
    heads = []
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        scores = torch.einsum("nic,njc->nij", queries[..., part], keys[..., part]) / width**0.5
        heads.append(torch.einsum("nij,njc->nic", scores.softmax(-1), values[..., part]))
    return fn.linear(torch.cat(heads, -1), *out)


def run_block(x: Tensor, state: State, name: str) -> Tensor:
    pair = {part: (state[f"{name}.{part}.weight"], state[f"{name}.{part}.bias"]) for part in ("attn.qkv", "attn.proj")}
    x = x + attention(normed(x, state, f"{name}.norm1", 1e-6), pair["attn.qkv"], pair["attn.proj"])
    y = normed(x, state, f"{name}.norm2", 1e-6)
    y = fn.gelu(fn.linear(y, state[f"{name}.mlp.fc1.weight"], state[f"{name}.mlp.fc1.bias"]))
    return x + fn.linear(y, state[f"{name}.mlp.fc2.weight"], state[f"{name}.mlp.fc2.bias"])


def batch_normed(x: Tensor, state: State, name: str) -> Tensor:
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return (x - mean) / (variance + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def patches_of(images: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    pixels = (images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    return fn.conv2d(pixels, weight, bias, stride).flatten(2).transpose(1, 2)


def run_transreid(images: Tensor, state: State, *, stride: int, after: bool) -> Tensor:
    weight, bias = state["base.patch_embed.proj.weight"], state["base.patch_embed.proj.bias"]
    x = patches_of(images, weight, bias, stride)
    x = torch.cat([state["base.cls_token"].repeat(len(x), 1, 1), x], 1) + state["base.pos_embed"]
    if "base.sie_embed" in state:
        x = x + 3.0 * sum(state["base.sie_embed"][camera] for camera in range(CAMERAS)) / CAMERAS
    jigsaw = "b1.0.norm1.weight" in state
    for number in range(DEPTH - jigsaw):
        x = run_block(x, state, f"base.blocks.{number}")
    if not jigsaw:
        feature = normed(x, state, "base.norm", 1e-6)[:, 0]
        return batch_normed(feature, state, "bottleneck") if after else feature
    features = [normed(run_block(x, state, "b1.0"), state, "b1.1", 1e-6)[:, 0]]
    features[0] = batch_normed(features[0], state, "bottleneck") if after else features[0]
    shuffled = shuffle(x)
    quarter = (x.shape[1] - 1) // 4
    for part in range(4):
        seen = torch.cat([x[:, :1], shuffled[:, part * quarter : (part + 1) * quarter]], 1)
        local = normed(run_block(seen, state, "b2.0"), state, "b2.1", 1e-6)[:, 0]
        features.append((batch_normed(local, state, f"bottleneck_{part + 1}") if after else local) / 4)
    return torch.cat(features, 1)


def shuffle(tokens: Tensor) -> Tensor:
    """Shifts the patches by four places, and takes one of the first half and one of the second in turns."""
    patches = [tokens[:, index] for index in (*range(5, tokens.shape[1]), 1, 2, 3, 4)]
    if len(patches) % 2:
        patches.append(patches[-2])
    half = len(patches) // 2
    return torch.stack(
        [patches[place] for pair in zip(range(half), range(half, 2 * half), strict=True) for place in pair], 1
    )


def run_clip(images: Tensor, whole: State, *, stride: int, after: bool) -> Tensor:
    state = {key.removeprefix("image_encoder."): value for key, value in whole.items()}
    x = patches_of(images, state["conv1.weight"], None, stride)
    token = state["class_embedding"]
    if "cv_embed" in state:
        token = token + sum(state["cv_embed"][camera] for camera in range(CAMERAS)) / CAMERAS
    x = torch.cat([token.repeat(len(x), 1, 1), x], 1) + state["positional_embedding"]
    x = normed(x, state, "ln_pre", 1e-5)
    for number in range(DEPTH):
        name = f"transformer.resblocks.{number}"
        inside = (state[f"{name}.attn.in_proj_weight"], state[f"{name}.attn.in_proj_bias"])
        outside = (state[f"{name}.attn.out_proj.weight"], state[f"{name}.attn.out_proj.bias"])
        x = x + attention(normed(x, state, f"{name}.ln_1", 1e-5), inside, outside)
        y = normed(x, state, f"{name}.ln_2", 1e-5)
        y = fn.linear(y, state[f"{name}.mlp.c_fc.weight"], state[f"{name}.mlp.c_fc.bias"])
        y = y * torch.sigmoid(1.702 * y)
        x = x + fn.linear(y, state[f"{name}.mlp.c_proj.weight"], state[f"{name}.mlp.c_proj.bias"])
    feature = normed(x, state, "ln_post", 1e-5)[:, 0]
    projected = feature @ state["proj"]
    if after:
        feature = batch_normed(feature, state, "bottleneck")
        projected = batch_normed(projected, state, "bottleneck_proj")
    return torch.cat([feature, projected], 1)


# ---- the tests ----

# file, forward pass, what the file has, feature
CASES: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "TransReID": (transreid, run_transreid, {}, "after"),
    "TransReID, jigsaw and cameras": (transreid, run_transreid, {"jigsaw": True, "cameras": True}, "before"),
    "TransReID, overlapping patches": (transreid, run_transreid, {"stride": 12, "jigsaw": True}, "after"),
    "CLIP-ReID": (clip_reid, run_clip, {}, "before"),
    "CLIP-ReID, overlapping patches and cameras": (clip_reid, run_clip, {"stride": 12, "cameras": True}, "after"),
}


def stored(state: State, folder: Path) -> Path:
    torch.save({f"module.{key}": value for key, value in state.items()}, folder / "theirs.pth")
    return folder / "theirs.pth"


@pytest.mark.parametrize("case", CASES)
def test_the_network_embeds_as_the_formulas_do(case: str, tmp_path: Path) -> None:
    make, forward, how, feature = CASES[case]
    state = make(**how)
    parts, _, embedder = build_embedder(stored(state, tmp_path), SIZE, feature=feature)
    assert any("embeddings of cameras" in phrase for phrase in parts.assumptions) == how.get("cameras", False)
    images = pictures(size=SIZE)
    vectors = embedder.embed(list(images.numpy()))
    wanted = forward(images, state, stride=how.get("stride", 16), after=feature == "after")
    assert vectors.shape == wanted.shape == (3, parts.dim)
    np.testing.assert_allclose(vectors, fn.normalize(wanted).numpy(), atol=2e-5)
    other = forward(images, state, stride=how.get("stride", 16), after=feature != "after")
    assert float((torch.from_numpy(vectors) * fn.normalize(other)).sum(1).max()) < 0.999


def test_the_model_file_embeds_as_the_formulas_do(tmp_path: Path) -> None:
    state, images = clip_reid(stride=12, cameras=True), pictures(size=SIZE)
    imported = import_for_inference(stored(state, tmp_path), tmp_path / "ours.onnx", size=SIZE, feature="before")
    assert not imported.model.rejected
    assert imported.feature == "before"
    vectors = open_embedder(tmp_path / "ours.onnx").embed(list(images.numpy()))
    wanted = fn.normalize(run_clip(images, state, stride=12, after=False))
    np.testing.assert_allclose(vectors, wanted.numpy(), atol=2e-5)


def test_the_jigsaw_on_numbers() -> None:
    # The example in the authors' comment: eight patches, a shift of five.
    assert shuffled_patches(8).tolist() == [5, 1, 6, 2, 7, 3, 8, 4]
    assert shuffled_patches(7).tolist() == [5, 2, 6, 3, 7, 4, 1, 3]


def test_keys_are_used_or_named(tmp_path: Path) -> None:
    network = build_network(stored(transreid(jigsaw=True), tmp_path), SIZE)
    last = f"base.blocks.{DEPTH - 1}."
    assert {key for key in network.unused if not key.startswith((last, "base.norm.", "classifier"))} == {
        "base.fc.weight",
        "base.fc.bias",
    }
    clip = build_network(stored(clip_reid(), tmp_path), SIZE)
    assert {key.split(".")[0] for key in clip.unused} == {
        "classifier",
        "classifier_proj",
        "prompt_learner",
        "text_encoder",
    }


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({**transreid(), "extra": torch.zeros(1)}, "unknown keys: extra"),
        ({k: v for k, v in transreid().items() if "blocks.1.attn.proj.bias" not in k}, "missing keys: base.blocks.1"),
        ({k: v for k, v in transreid().items() if "qkv.bias" not in k}, "vit_small, whose attention"),
        ({k: v for k, v in transreid().items() if "bottleneck.bias" not in k}, "missing keys: bottleneck.bias"),
        ({**clip_reid(), "image_encoder.extra": torch.zeros(1)}, "unknown keys: image_encoder.extra"),
        ({k: v for k, v in clip_reid().items() if k != "image_encoder.proj"}, "missing keys: image_encoder.*proj"),
        ({k: v for k, v in clip_reid().items() if "ln_post" not in k}, "missing keys: norm.weight, norm.bias"),
        ({**transreid(), "base.sie_embed": torch.zeros(2, 1, 7)}, "not those of TransReID .*size"),
        ({**transreid(), "base.pos_embed": torch.zeros(())}, "not those of TransReID"),
        ({**transreid(), "base.patch_embed.proj.weight": torch.zeros(0)}, "1 to 4,096 channels"),
        ({**transreid(), **norm("bottleneck", 59)}, "another shape: bottleneck.weight.*has 128 numbers"),
        (
            {**clip_reid(), "image_encoder.proj": torch.zeros(7, 64)},
            r"proj has the shape \[7, 64\] instead of \[128, any",
        ),
        ({**clip_reid(), **norm("bottleneck", 64)}, "another shape: bottleneck.weight"),
        ({"image_encoder.class_embedding": torch.zeros(3)}, "missing keys: image_encoder"),
        ({"image_encoder.attnpool.k_proj.bias": torch.zeros(1)}, "one of OSNet, TransReID, MGN, CLIP-ReID"),
        ({"base.conv1.weight": torch.zeros(1)}, "others become a checkpoint: name a .pt file"),
    ],
)
def test_other_weights_are_refused(state: State, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        import_for_inference(stored(state, tmp_path), tmp_path / "ours.onnx", size=SIZE)
    assert str(caught.value).startswith(f"{tmp_path / 'theirs.pth'}: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ours.onnx").exists()


def test_a_wrong_size_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its 8 position embeddings do not fit crops of 256x128"):
        import_for_inference(stored(transreid(), tmp_path), tmp_path / "ours.onnx")


def test_a_model_of_bgr_images_takes_rgb(tmp_path: Path) -> None:
    state, images = clip_reid(), pictures(size=SIZE)
    _, _, embedder = build_embedder(stored(state, tmp_path), SIZE, color="BGR")
    vectors = embedder.embed(list(images.numpy()))
    wanted = fn.normalize(run_clip(images.flip(3), state, stride=16, after=False))
    np.testing.assert_allclose(vectors, wanted.numpy(), atol=2e-5)


def test_the_command(tmp_path: Path) -> None:
    file = stored(transreid(jigsaw=True, cameras=True), tmp_path)
    result = run_bot("import", file, "-o", tmp_path / "model.onnx", "--size", "64x32")
    assert result.returncode == 0, result.stderr
    assert "transreid: embedding before the neck, 640 numbers" in result.stderr
    assert "the mean of its 4 embeddings of cameras for every camera, with the weight 3" in result.stderr
    assert re.search(r"parity +passed", result.stderr)
    assert open_embedder(tmp_path / "model.onnx").contract.arch == "transreid"
    for options, message in (
        (["-o", tmp_path / "model.pt"], "it is TransReID, which is not trained here: it becomes a model file"),
        (["-o", tmp_path / "model.bin"], "checkpoints end in .pt, model files in .onnx"),
        (["-o", tmp_path / "x.onnx", "--last-stride", "1"], "are for checkpoints, which end in .pt"),
        (["-o", tmp_path / "x.pt", "--data", "synthetic"], "--data is for model files"),
        (["-o", tmp_path / "x.onnx", "--data", tmp_path / "none"], "none: no such"),
    ):
        refused = run_bot("import", file, "--size", "64x32", *options)
        assert refused.returncode == 2
        assert message in refused.stderr
        assert "Traceback" not in refused.stderr
