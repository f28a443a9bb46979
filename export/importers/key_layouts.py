"""How other toolkits name their weights, and what they do that the weights do not tell (docs/import.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

AUTO = "auto"
MOBILENET = "mobilenet_v2"
SHOWN = 8  # keys in a message
CONVERTIBLE = "ResNet-18, -34, -50 and -101, each also with IBN-a, and fast-reid's MobileNetV2"


@dataclass(frozen=True)
class Layout:
    """One toolkit's keys: a key that starts with a name on the left becomes one of ours that starts with the right."""

    name: str
    renamed: dict[str, str]  # the first that fits counts
    unused: tuple[str, ...]  # keys, as patterns, that only training needs
    last_stride: int  # its default, of ResNets
    stem: str  # of its plain ResNets


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            name="reid-strong-baseline",
            renamed={"base.": "backbone.", "bottleneck.": "neck.", "classifier.": "classifier."},
            unused=(r"base\.fc\.",),  # resnet50_ibn_a carries an ImageNet classifier that it never runs
            last_stride=1,
            stem="no-relu",
        ),
        Layout(
            name="fast-reid",
            renamed={
                "backbone.": "backbone.",
                "heads.bottleneck.0.": "neck.",
                "heads.bnneck.": "neck.",
                "heads.weight": "classifier.weight",
                "heads.classifier.": "classifier.",
            },
            unused=(r"heads\.classifier\.t$",),  # a counter of its ArcFace
            last_stride=1,
            stem="unpadded-pool",
        ),
        Layout(
            name="torchreid",
            renamed={"classifier.": "classifier.", "fc.": "classifier.", "": "backbone."},
            unused=(),
            last_stride=2,
            stem="torchvision",
        ),
    )
}

# A pattern in a key -> what it belongs to, none of which is in our networks.
UNSUPPORTED = {
    r"\.NL_\d": "non-local blocks (fast-reid's AGW and SBS)",
    r"pool_layer\.": "generalised-mean pooling (fast-reid's AGW and SBS)",
    r"heads\.bottleneck\.1\.": "an embedding of reduced length (fast-reid's EMBEDDING_DIM)",
    r"\.se(_module)?\.": "squeeze-and-excitation blocks",
    r"^fc\.\d": "a fully connected layer after the pooling (torchreid's resnet50_fc512)",
    r"layer\d\.\d+\.IN\.": "IBN-b",
    r"(^|\.)conv1\.conv\.": "the layers of OSNet or of torchreid's MobileNetV2",
    r"patch_embed|cls_token": "a vision transformer",
}

# (blocks of three convolutions, blocks in each stage)
DEPTHS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
}


def detect(keys: Iterable[str]) -> Layout:
    """The toolkit whose layout `keys` have.

    Raises:
        InputError: none of the known ones; the message names some keys.
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
        f"keys of no layout known here: {listed(keys)}; known are base.* (reid-strong-baseline), "
        "backbone.* and heads.* (fast-reid), and torchvision's (torchreid)"
    )


def refuse_unsupported(keys: Iterable[str]) -> None:
    """Raises InputError when a key belongs to something that our networks do not have."""
    keys = list(keys)
    for pattern, what in UNSUPPORTED.items():
        found = [key for key in keys if re.search(pattern, key)]
        if found:
            raise InputError(f"it has {what}, which cannot be imported: {listed(found)}; convertible: {CONVERTIBLE}")


def ours(layout: Layout, key: str) -> str | None:
    """Our name of `key`, or None for what is left over."""
    for theirs, mine in layout.renamed.items():
        if key.startswith(theirs):
            name = mine + key[len(theirs) :]
            return _mobilenet(name) if layout.name == "fast-reid" else name
    return None


def backbone(keys: Iterable[str]) -> str:
    """The backbone whose keys, in our names, are among `keys`.

    Raises:
        InputError: none of ours.
    """
    names = {key.removeprefix("backbone.") for key in keys if key.startswith("backbone.")}
    if "features.0.0.weight" in names:
        return MOBILENET
    blocks = tuple(len({name.split(".")[1] for name in names if name.startswith(f"layer{n}.")}) for n in range(1, 5))
    arch = DEPTHS.get(("layer1.0.conv3.weight" in names, blocks))
    if arch is None:
        found = f"a ResNet of {'+'.join(map(str, blocks))} blocks" if any(blocks) else listed(sorted(names))
        raise InputError(f"its backbone cannot be imported: {found}; convertible: {CONVERTIBLE}")
    return f"{arch}_ibn_a" if "layer1.0.bn1.IN.weight" in names else arch


def _mobilenet(key: str) -> str:
    """fast-reid's MobileNetV2 in torchvision's names; any other key as it is."""
    key = re.sub(r"^backbone\.conv\.", "backbone.features.18.", key)
    found = re.match(r"backbone\.features\.(\d+)\.conv\.(\d)\.(?!\d)(.*)", key)
    if not found:
        return key
    block, layer, rest = found.groups()
    # theirs is one list of convolution, batch-norm, ReLU6, ...; torchvision's groups each three, but not the last two
    last = 3 if block == "1" else 6
    place = f"{int(layer) // 3}.{int(layer) % 3}" if int(layer) < last else f"{last // 3 + int(layer) - last}"
    return f"backbone.features.{block}.conv.{place}.{rest}"


def listed(keys: Iterable[str]) -> str:
    """Some of `keys`, for a message."""
    keys = list(keys)
    return ", ".join(keys[:SHOWN]) + (f", ... ({len(keys)} in all)" if len(keys) > SHOWN else "") or "none"
