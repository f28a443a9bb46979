"""TransReID (He et al., ICCV 2021): a vision transformer, with or without the jigsaw patch module and cameras.

The network has the keys of its authors, so that its state dict loads as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bot_deploy.errors import InputError

from .inference_only import InferenceParts, join_necks, load_network
from .key_layouts import count_blocks
from .vision_transformer import build_transformer, describe_cameras, describe_stride, embed_patches

if TYPE_CHECKING:
    from collections.abc import Mapping

# The settings of the published models of people, which the weights do not show; those of vehicles have a shift of 8
CAMERA_WEIGHT = 3.0  # lambda of the side information embeddings (section 3.3)
SHIFT, GROUPS, PARTS = 5, 2, 4  # of the jigsaw patch module (section 3.2)
NORMALIZATION = (0.5, 0.5, 0.5)
EPS = 1e-6  # of the layer norms
TRAINING_ONLY = r"base\.fc\.|classifier(_\d)?\."


def build(state: Mapping[str, Tensor], size: tuple[int, int]) -> InferenceParts:
    """The network with the weights `state`; see `import_for_inference`."""
    given = {key: value.float() for key, value in state.items()}
    if "base.blocks.0.attn.qkv.weight" in given and "base.blocks.0.attn.qkv.bias" not in given:
        raise InputError("it is TransReID's vit_small, whose attention is scaled otherwise; it cannot be imported")
    assumptions = ["the normalisation with mean and deviation 0.5"]
    cameras = given.pop("base.sie_embed", None)  # [cameras or views, 1, C]
    if cameras is not None and "base.pos_embed" in given:
        given["base.pos_embed"] = given["base.pos_embed"] + CAMERA_WEIGHT * cameras.mean(0)
        assumptions.append(describe_cameras(len(cameras), CAMERA_WEIGHT))
    has_parts = "b1.0.norm1.weight" in given
    network = TransReID(given, size, has_parts=has_parts)
    if has_parts:
        assumptions.append(f"a jigsaw of {PARTS} parts, {GROUPS} groups and shift {SHIFT}")
    necks = ["bottleneck", *[f"bottleneck_{part}" for part in range(1, PARTS + 1)] * has_parts]
    neck = join_necks(given, necks, [network.base.embed_dim] * len(necks), [1, *[1 / PARTS] * PARTS * has_parts])
    last = count_blocks(given, "base.blocks.") - 1
    replaced = rf"|base\.blocks\.{last}\.|base\.norm\." if has_parts else ""  # b1 and b2 have copies of them
    unused = load_network(network, given, necks, TRAINING_ONLY + replaced)
    return InferenceParts(
        arch=f"transreid{describe_stride(network.base)}",
        backbone=network,
        neck=neck,
        dim=len(neck.weight),
        unused=unused,
        assumptions=tuple(assumptions),
        mean=NORMALIZATION,
        std=NORMALIZATION,
    )


class TransReID(nn.Module):
    """Normalised images [N, 3, H, W] to the feature before the neck.

    Without `has_parts` that is the class token [N, C]. With it, the last block sees all patches for the global feature
    (b1), and a shuffled quarter of them for each of four local ones (b2), which have a quarter of the weight: [N, 5 C].
    """

    order: Tensor

    def __init__(self, state: Mapping[str, Tensor], size: tuple[int, int], *, has_parts: bool) -> None:
        super().__init__()
        depth = count_blocks(state, "base.blocks.") - has_parts
        plain = {key.removeprefix("base."): value for key, value in state.items()}
        self.base: Any = build_transformer(plain, size, depth, eps=EPS, final_norm=not has_parts)
        self.b1: nn.Sequential | None = None
        self.b2: nn.Sequential | None = None
        if has_parts:
            self.b1, self.b2 = self._last_block(plain, size), self._last_block(plain, size)
            self.register_buffer("order", shuffled_patches(self.base.pos_embed.shape[1] - 1), persistent=False)

    @staticmethod
    def _last_block(state: Mapping[str, Tensor], size: tuple[int, int]) -> nn.Sequential:
        one = build_transformer(state, size, 1, eps=EPS)
        return nn.Sequential(one.blocks[0], one.norm)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.base.blocks(embed_patches(self.base, images))
        if self.b1 is None or self.b2 is None:
            class_token: Tensor = self.base.norm(tokens)[:, 0]
            return class_token
        token, patches = tokens[:, :1], tokens[:, self.order]
        length = (tokens.shape[1] - 1) // PARTS
        features = [self.b1(tokens)[:, 0]]
        for part in range(PARTS):
            seen = torch.cat([token, patches[:, part * length : (part + 1) * length]], 1)
            features.append(self.b2(seen)[:, 0] / PARTS)
        return torch.cat(features, 1)


def shuffled_patches(count: int) -> Tensor:
    """The order of the tokens 1 to `count` in which the jigsaw module cuts them into parts (equation 5 of the paper).

    They are shifted, written in rows of GROUPS groups, and read by columns. Where the groups are not equal, the last
    but one is repeated.
    """
    shifted = [*range(SHIFT, count + 1), *range(1, SHIFT)]
    if count % GROUPS:
        shifted.append(shifted[-2])
    return torch.tensor(shifted).reshape(GROUPS, -1).T.flatten()
