"""The image branch of CLIP-ReID (Li et al., AAAI 2023) with a ViT: the class token, and its projection beside it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bot_deploy.artifacts.state_dict import match_state_dict
from bot_deploy.errors import InputError

from .inference_only import InferenceParts, join_necks, split_unused
from .key_layouts import count_blocks
from .vision_transformer import build_transformer, describe_cameras, describe_stride, embed_patches

if TYPE_CHECKING:
    from collections.abc import Mapping

CAMERA_WEIGHT = 1.0  # of the embeddings of cameras, in the published models that have them
NORMALIZATION = (0.5, 0.5, 0.5)
EPS = 1e-5  # of CLIP's layer norms
PREFIX = "image_encoder."
NECKS = ("bottleneck", "bottleneck_proj")
TRAINING_ONLY = r"prompt_learner\.|text_encoder\.|classifier(_proj)?\."
# CLIP's keys -> timm's
RENAMED = {
    r"^class_embedding$": "cls_token",
    r"^positional_embedding$": "pos_embed",
    r"^conv1\.": "patch_embed.proj.",
    r"^ln_pre\.": "norm_pre.",
    r"^ln_post\.": "norm.",
    r"^transformer\.resblocks\.": "blocks.",
    r"\.ln_": ".norm",
    r"\.in_proj_": ".qkv.",
    r"\.out_proj\.": ".proj.",
    r"\.c_fc\.": ".fc1.",
    r"\.c_proj\.": ".fc2.",
}


def build(state: Mapping[str, Tensor], size: tuple[int, int]) -> InferenceParts:
    """The network with the weights `state`; see `import_for_inference`."""
    file_keys = {_rename(key.removeprefix(PREFIX)): key for key in state if key.startswith(PREFIX)}
    given = {name: state[key].float() for name, key in file_keys.items()}
    assumptions = ["the normalisation with mean and deviation 0.5"]
    try:
        given["cls_token"], given["pos_embed"] = given["cls_token"][None, None], given["pos_embed"][None]
        projection = given.pop("proj")
    except KeyError as error:
        raise InputError(f"missing keys: {PREFIX}* for {error}") from None
    cameras = state.get("cv_embed")  # [cameras or views, C]
    if cameras is not None:
        given["cls_token"] = given["cls_token"] + CAMERA_WEIGHT * cameras.float().mean(0)
        assumptions.append(describe_cameras(len(cameras), CAMERA_WEIGHT))
    base = build_transformer(given, size, count_blocks(given, "blocks."), eps=EPS, is_clip=True)
    used = [*file_keys.values(), "cv_embed", *(key for key in state if key.startswith(tuple(f"{n}." for n in NECKS)))]
    unused, unknown = split_unused(state, used, TRAINING_ONLY)
    base.load_state_dict(match_state_dict(given, base.state_dict(), file_keys=file_keys, unknown=unknown))
    if projection.ndim != 2 or len(projection) != base.embed_dim:  # noqa: PLR2004 - a matrix
        raise InputError(f"{PREFIX}proj has the shape {list(projection.shape)} instead of [{base.embed_dim}, any]")
    neck = join_necks(state, NECKS, projection.shape, (1, 1))
    return InferenceParts(
        arch=f"clip-reid{describe_stride(base)}",
        backbone=ClipImageEncoder(base, projection),
        neck=neck,
        dim=len(neck.weight),
        unused=unused,
        assumptions=tuple(assumptions),
        mean=NORMALIZATION,
        std=NORMALIZATION,
    )


class ClipImageEncoder(nn.Module):
    """Normalised images [N, 3, H, W] to the class token and its projection into CLIP's space, [N, C + P]."""

    def __init__(self, base: Any, projection: Tensor) -> None:
        super().__init__()
        self.base = base
        self.projection = nn.Parameter(projection)  # [C, P]

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.base.blocks(embed_patches(self.base, images))
        token = self.base.norm(tokens[:, 0])
        return torch.cat([token, token @ self.projection], 1)


def _rename(key: str) -> str:
    for pattern, name in RENAMED.items():
        key = re.sub(pattern, name, key)
    return key
