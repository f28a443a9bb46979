"""The keys of other toolkits' state dicts, and their settings that the weights do not show (docs/import.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bot_deploy.artifacts.state_dict import list_keys
from bot_deploy.errors import InputError
from bot_deploy.model import NON_LOCAL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

AUTO = "auto"


@dataclass(frozen=True)
class InferenceLayout:
    """A network that only runs here: the module that builds it, and a key that no other network has."""

    module: str
    key: str


INFERENCE_NETWORKS = {
    "OSNet": InferenceLayout("osnet", "conv2.0.gate.fc1.weight"),
    "TransReID": InferenceLayout("transreid", "base.cls_token"),
    "MGN": InferenceLayout("mgn", "b1_head.bottleneck.0.weight"),
    "CLIP-ReID": InferenceLayout("clip_reid", "image_encoder.class_embedding"),
}
CONVERTIBLE = (
    "ResNet-18, -34, -50, -101 and -152, each also with IBN-a, -50 and -101 also with non-local blocks, ResNeSt-50, "
    "also with non-local blocks, and fast-reid's MobileNetV2"
)


@dataclass(frozen=True)
class KeyLayout:
    """The keys of one toolkit, and the defaults of its ResNets."""

    name: str
    prefixes: dict[str, str]  # prefix of the toolkit's keys -> prefix of ours; the first match counts
    training_only: tuple[str, ...]  # patterns of keys that only training needs
    last_stride: int
    stem: str  # of ResNets without IBN


LAYOUTS = {
    layout.name: layout
    for layout in (
        KeyLayout(
            name="reid-strong-baseline",
            # global_pool is that of AGW, which its authors built on this toolkit.
            prefixes={
                "base.": "backbone.",
                "global_pool.": "pool.",
                "bottleneck.": "neck.",
                "classifier.": "classifier.",
            },
            training_only=(r"base\.fc\.",),  # the ImageNet classifier of resnet50_ibn_a, which is never used
            last_stride=1,
            stem="no-relu",
        ),
        KeyLayout(
            name="fast-reid",
            prefixes={
                "backbone.": "backbone.",
                "heads.pool_layer.": "pool.",
                "heads.bottleneck.0.": "neck.",
                "heads.bottleneck.1.": "neck.",  # behind the layer that reduces the embedding, which is 0 then
                "heads.bnneck.": "neck.",
                "heads.weight": "classifier.weight",
                "heads.classifier.": "classifier.",
            },
            training_only=(r"heads\.classifier\.t$",),  # a counter of its ArcFace
            last_stride=1,
            stem="unpadded-pool",
        ),
        KeyLayout(
            name="torchreid",
            prefixes={"classifier.": "classifier.", "fc.": "classifier.", "": "backbone."},
            training_only=(),
            last_stride=2,
            stem="torchvision",
        ),
    )
}

# pattern in a key -> the part of a network that it belongs to; our networks have none of these
UNSUPPORTED = {
    r"^b\d\d?_head\.": "several branches (an MGN of fast-reid without reduced embeddings)",
    r"\.se(_module)?\.": "squeeze-and-excitation blocks",
    r"^fc\.\d": "a fully connected layer after the pooling (torchreid's resnet50_fc512)",
    r"layer\d\.\d+\.IN\.": "IBN-b",
    r"(^|\.)conv1\.conv\.": "the layers of torchreid's MobileNetV2 or of an OSNet of fast-reid",
    r"^image_encoder\.": "the ResNet of CLIP",
    r"patch_embed|cls_token": "a vision transformer that is not TransReID's",
}

# (whether a block has three convolutions, number of blocks in each stage) -> backbone
RESNETS_BY_BLOCKS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
    (True, (3, 8, 36, 3)): "resnet152",
}


def detect_layout(keys: Iterable[str]) -> KeyLayout:
    """The layout of `keys`.

    Raises:
        InputError: none of the known layouts; the message lists some keys.
    """
    keys = list(keys)
    for name, start in (
        ("fast-reid", "backbone."),
        ("reid-strong-baseline", "base."),
        ("torchreid", "layer1."),
        ("torchreid", "conv1."),
    ):
        if any(key.startswith(start) for key in keys):
            return LAYOUTS[name]
    raise InputError(
        f"keys of no known layout: {list_keys(keys) or 'none'}; known are base.* (reid-strong-baseline), "
        "backbone.* and heads.* (fast-reid), and torchvision's (torchreid)"
    )


def find_inference_network(keys: Iterable[str]) -> str | None:
    """The name in `INFERENCE_NETWORKS` of the network with `keys`; None if it is none of them."""
    keys = set(keys)
    return next((name for name, network in INFERENCE_NETWORKS.items() if network.key in keys), None)


def count_blocks(keys: Mapping[str, Tensor], prefix: str) -> int:
    """How many blocks have keys that begin with `prefix` and a number."""
    return len({key[len(prefix) :].split(".")[0] for key in keys if key.startswith(prefix)})


def check_supported(keys: Iterable[str]) -> None:
    """Raises an InputError if a key belongs to a part that our networks do not have."""
    keys = list(keys)
    name = find_inference_network(keys)
    if name:
        raise InputError(f"it is {name}, which is not trained here: it becomes a model file, so name an .onnx file")
    for pattern, part in UNSUPPORTED.items():
        matches = [key for key in keys if re.search(pattern, key)]
        if matches:
            raise InputError(
                f"it has {part}, which cannot be imported: {list_keys(matches)}; convertible: {CONVERTIBLE}"
            )


def rename_key(layout: KeyLayout, key: str) -> str | None:
    """The key in our networks for `key` of a toolkit, or None if there is none."""
    for theirs, ours in layout.prefixes.items():
        if key.startswith(theirs):
            renamed = re.sub(r"^backbone\.NL_(\d)\.", rf"backbone.layer\1.{NON_LOCAL}", ours + key[len(theirs) :])
            return _rename_mobilenet(renamed) if layout.name == "fast-reid" else renamed
    return None


def detect_backbone(weights: Mapping[str, Tensor]) -> str:
    """The backbone whose keys are among those of `weights`, which are our networks'.

    Raises:
        InputError: no backbone of ours has these keys.
    """
    names = {key.removeprefix("backbone.") for key in weights if key.startswith("backbone.")}
    if "features.0.0.weight" in names:
        return "mobilenet_v2"
    blocks = tuple(
        len({match[1] for name in names if (match := re.match(rf"layer{n}\.(\d+)\.", name))}) for n in range(1, 5)
    )
    arch = RESNETS_BY_BLOCKS.get(("layer1.0.conv3.weight" in names, blocks))
    if "layer1.0.conv2.fc1.weight" in names:  # split attention
        arch = "resnest50" if arch == "resnet50" else None
    if arch is None:
        description = f"a ResNet of {'+'.join(map(str, blocks))} blocks" if any(blocks) else list_keys(sorted(names))
        raise InputError(f"its backbone cannot be imported: {description}; convertible: {CONVERTIBLE}")
    if arch.startswith("resnest") and "layer1.0.bn1.IN.weight" in names:
        raise InputError(f"its backbone cannot be imported: a ResNeSt with IBN; convertible: {CONVERTIBLE}")
    non_local = weights.get(f"backbone.layer2.{NON_LOCAL}0.g.weight")  # [its channels, those of its input, 1, 1]
    if non_local is not None:
        arch += "_nl1" if len(non_local) == 1 else "_nl"
    return f"{arch}_ibn_a" if "layer1.0.bn1.IN.weight" in names else arch


def _rename_mobilenet(key: str) -> str:
    """The key in torchvision's MobileNetV2 for a key of fast-reid's; any other key as it is."""
    key = re.sub(r"^backbone\.conv\.", "backbone.features.18.", key)
    match = re.match(r"backbone\.features\.(\d+)\.conv\.(\d)\.(?!\d)(.*)", key)
    if not match:
        return key
    block, layer, rest = match.groups()
    # In fast-reid a block is one list: convolution, batch-norm, ReLU6, convolution, ... torchvision groups each three
    # of them, except for the last convolution and batch-norm.
    grouped = 3 if block == "1" else 6
    place = f"{int(layer) // 3}.{int(layer) % 3}" if int(layer) < grouped else f"{grouped // 3 + int(layer) - grouped}"
    return f"backbone.features.{block}.conv.{place}.{rest}"
