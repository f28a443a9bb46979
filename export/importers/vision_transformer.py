"""The vision transformer that TransReID and CLIP-ReID share, from timm; its patches may overlap."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bot_deploy.errors import InputError
from bot_deploy.telemetry import without_telemetry
from bot_deploy.timm_backbone import import_timm

from .inference_only import count_channels

if TYPE_CHECKING:
    from collections.abc import Mapping

PATCH = 16  # pixels
HEAD_CHANNELS = 64  # of an attention head
STRIDES = (PATCH, 12)  # between patches, in pixels: those that are published


def find_stride(positions: int, size: tuple[int, int]) -> int:
    """The pixels between patches with which images of `size` have as many patches as there are `positions`.

    Raises:
        InputError: none fits.
    """
    for stride in STRIDES:
        rows, columns = ((side - PATCH) // stride + 1 for side in size)
        if min(size) >= PATCH and rows * columns == positions:
            return stride
    raise InputError(
        f"its {positions} position embeddings do not fit crops of {size[0]}x{size[1]}; name the size it was trained on",
        parameter="size",
    )


def build_transformer(
    state: Mapping[str, Tensor],
    size: tuple[int, int],
    depth: int,
    *,
    eps: float,
    is_clip: bool = False,
    final_norm: bool = True,
) -> Any:
    """A vision transformer for the weights `state`, which have timm's keys; they are not loaded.

    Args:
        state: at least patch_embed.proj.weight, pos_embed and blocks.0.mlp.fc1.weight.
        size: height and width of the images in pixels.
        depth: number of blocks.
        eps: of the layer norms.
        is_clip: it has a layer norm before the blocks, no bias at the patches, and the approximate GELU of CLIP.
        final_norm: it has a layer norm after the blocks.

    Raises:
        InputError: weights of another network, or a size that does not fit them.
        RunError: timm is not installed.
    """
    timm = import_timm()
    with without_telemetry():
        from timm.layers import QuickGELU
    dim, positions = count_channels(state, "patch_embed.proj.weight"), state["pos_embed"].shape[1]
    ratio = count_channels(state, "blocks.0.mlp.fc1.weight") / dim
    if dim % HEAD_CHANNELS:
        raise InputError(f"a transformer of {dim} channels; those of 64 for each head can be imported")
    stride = find_stride(positions - 1, size)
    network: Any = timm.models.vision_transformer.VisionTransformer(
        img_size=size,
        num_classes=0,
        embed_dim=dim,
        depth=depth,
        num_heads=dim // HEAD_CHANNELS,
        mlp_ratio=ratio,
        pre_norm=is_clip,
        final_norm=final_norm,
        norm_layer=partial(nn.LayerNorm, eps=eps),
        act_layer=QuickGELU if is_clip else nn.GELU,
    )
    patches = network.patch_embed
    patches.proj = nn.Conv2d(3, dim, PATCH, stride, bias=not is_clip)
    network.pos_embed = nn.Parameter(torch.zeros(1, positions, dim))
    return network


def describe_cameras(count: int, weight: float) -> str:
    """The assumption that is made about `count` embeddings of cameras: a new camera has none of its own."""
    return f"the mean of its {count} embeddings of cameras for every camera, with the weight {weight:g}"


def describe_stride(network: Any) -> str:
    """What the name of a network with overlapping patches ends in."""
    stride = network.patch_embed.proj.stride[0]
    return "" if stride == PATCH else f"-stride{stride}"


def embed_patches(network: Any, images: Tensor) -> Tensor:
    """The tokens [N, 1 + patches, C] of normalised images, as the first block takes them; the class token is first."""
    patches = network.patch_embed.proj(images).flatten(2).transpose(1, 2)
    tokens = torch.cat([network.cls_token.expand(images.shape[0], -1, -1), patches], 1) + network.pos_embed
    normed: Tensor = network.norm_pre(tokens)
    return normed
