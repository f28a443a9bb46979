"""State dicts of other toolkits, made of random numbers, and their plain forward passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bot_deploy.artifacts import checkpoint
from bot_deploy.model import InferenceGraph

State = dict[str, Tensor]
SIZE = {"size": (32, 16)}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


# ---- the state dicts ----


def conv(out: int, inside: int, size: int) -> Tensor:
    return torch.randn(out, inside, size, size) * (2 / (inside * size * size)) ** 0.5


def norm(prefix: str, channels: int) -> State:
    return {
        f"{prefix}.weight": torch.rand(channels) + 0.5,
        f"{prefix}.bias": torch.randn(channels) * 0.2,
        f"{prefix}.running_mean": torch.randn(channels) * 0.2,
        f"{prefix}.running_var": torch.rand(channels) + 0.5,
        f"{prefix}.num_batches_tracked": torch.tensor(7),
    }


def instance_norm(prefix: str, channels: int) -> State:
    return {f"{prefix}.weight": torch.rand(channels) + 0.5, f"{prefix}.bias": torch.randn(channels) * 0.2}


def non_local(prefix: str, channels: int, inner: int) -> State:
    """Small weights: the block multiplies three features, which would grow without bound."""
    state: State = {}
    for name, out, inside in (("g", inner, channels), ("theta", inner, channels), ("phi", inner, channels)):
        state |= {
            f"{prefix}.{name}.weight": 0.02 * conv(out, inside, 1),
            f"{prefix}.{name}.bias": torch.randn(out) * 0.1,
        }
    state |= {f"{prefix}.W.0.weight": conv(channels, inner, 1), f"{prefix}.W.0.bias": torch.randn(channels) * 0.1}
    return state | norm(f"{prefix}.W.1", channels)


def resnet(depth: int = 18, *, ibn: bool = False) -> State:
    state = {"conv1.weight": conv(64, 3, 7), **norm("bn1", 64)}
    inside, expansion = 64, 1 if depth < 50 else 4
    for stage, count in enumerate(BLOCKS[depth], 1):
        width = 32 * 2**stage
        for block in range(count):
            p = f"layer{stage}.{block}"
            sizes = [(inside, width, 3), (width, width, 3)]
            if expansion == 4:
                sizes = [(inside, width, 1), (width, width, 3), (width, 4 * width, 1)]
            for number, (before, after, size) in enumerate(sizes, 1):
                state[f"{p}.conv{number}.weight"] = conv(after, before, size)
                if number == 1 and ibn and stage < 4:
                    state |= {**instance_norm(f"{p}.bn1.IN", after // 2), **norm(f"{p}.bn1.BN", after // 2)}
                else:
                    state |= norm(f"{p}.bn{number}", after)
            if block == 0 and (stage > 1 or expansion == 4):
                state[f"{p}.downsample.0.weight"] = conv(expansion * width, inside, 1)
                state |= norm(f"{p}.downsample.1", expansion * width)
            inside = expansion * width
    return state


def resnest() -> State:
    """ResNeSt-50 with the keys of fast-reid: a stem of three convolutions, and split attention in every block."""
    state = {
        "conv1.0.weight": conv(32, 3, 3),
        "conv1.3.weight": conv(32, 32, 3),
        "conv1.6.weight": conv(64, 32, 3),
        **norm("conv1.1", 32),
        **norm("conv1.4", 32),
        **norm("bn1", 64),
    }
    inside = 64
    for stage, count in enumerate(BLOCKS[50], 1):
        width = 32 * 2**stage
        for block in range(count):
            p = f"layer{stage}.{block}"
            reduced = max(width // 2, 32)
            state |= {f"{p}.conv1.weight": conv(width, inside, 1), **norm(f"{p}.bn1", width)}
            # two groups, each of which sees half of the channels
            state |= {f"{p}.conv2.conv.weight": conv(2 * width, width // 2, 3), **norm(f"{p}.conv2.bn0", 2 * width)}
            state |= {
                f"{p}.conv2.fc1.weight": conv(reduced, width, 1),
                f"{p}.conv2.fc1.bias": torch.randn(reduced) * 0.2,
            }
            state |= {f"{p}.conv2.fc2.weight": conv(2 * width, reduced, 1), **norm(f"{p}.conv2.bn1", reduced)}
            state |= {f"{p}.conv2.fc2.bias": torch.randn(2 * width) * 0.2}
            state |= {f"{p}.conv3.weight": conv(4 * width, width, 1), **norm(f"{p}.bn3", 4 * width)}
            if block == 0:
                state |= {
                    f"{p}.downsample.1.weight": conv(4 * width, inside, 1),
                    **norm(f"{p}.downsample.2", 4 * width),
                }
            inside = 4 * width
    return state


MOBILE = [(1, 16, 1), (6, 24, 2), (6, 24, 1), (6, 32, 2), *[(6, 32, 1)] * 2, (6, 64, 2), *[(6, 64, 1)] * 3]


def mobilenet() -> State:
    """MobileNetV2 with the keys of fast-reid, where every layer of a block is in one list."""
    state = {"features.0.0.weight": conv(32, 3, 3), **norm("features.0.1", 32)}
    inside = 32
    for number, (expansion, out, _) in enumerate(MOBILE, 1):
        p, middle = f"features.{number}.conv", inside * expansion
        layers = [conv(middle, 1, 3), conv(out, middle, 1)]
        if expansion > 1:
            layers.insert(0, conv(middle, inside, 1))
        for index, weight in enumerate(layers):
            state[f"{p}.{3 * index}.weight"] = weight
            state |= norm(f"{p}.{3 * index + 1}", len(weight))
        inside = out
    return state | {"conv.0.weight": conv(1280, 320, 1), **norm("conv.1", 1280)}


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def authors(backbone: State, dim: int = 512) -> State:
    neck = prefixed("bottleneck.", {k[1:]: v for k, v in norm("", dim).items()})
    return {**prefixed("base.", backbone), **neck, "classifier.weight": torch.randn(9, dim)}


def fastreid(
    backbone: State, dim: int = 512, neck: str = "heads.bottleneck.0", classifier: str = "heads.weight"
) -> State:
    pixels = {"pixel_mean": torch.tensor([120.0, 110, 100]), "pixel_std": torch.tensor([60.0, 55, 50])}
    pixels = {key: value.view(1, 3, 1, 1) for key, value in pixels.items()}
    return {**prefixed("backbone.", backbone), **norm(neck, dim), classifier: torch.randn(9, dim), **pixels}


def torchreid(backbone: State, dim: int = 512) -> State:
    return {**backbone, "classifier.weight": torch.randn(9, dim), "classifier.bias": torch.randn(9)}


# ---- the forward passes ----


def normed(x: Tensor, state: State, p: str) -> Tensor:
    if f"{p}.IN.weight" in state:
        half = x.shape[1] // 2
        first, second = x[:, :half], x[:, half:]
        mean, var = first.mean((2, 3), keepdim=True), first.var((2, 3), unbiased=False, keepdim=True)
        weight, bias = (state[f"{p}.IN.{name}"].view(1, -1, 1, 1) for name in ("weight", "bias"))
        return torch.cat([(first - mean) / (var + 1e-5).sqrt() * weight + bias, normed(second, state, f"{p}.BN")], 1)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    names = ("weight", "bias", "running_mean", "running_var")
    weight, bias, mean, var = (state[f"{p}.{name}"].view(shape) for name in names)
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def run_non_local(x: Tensor, state: State, p: str) -> Tensor:
    """Dot-product non-local block: every position gets the mean of g over all positions, weighted by theta and phi."""
    g, theta, phi = (
        F.conv2d(x, state[f"{p}.{name}.weight"], state[f"{p}.{name}.bias"]).flatten(2) for name in ("g", "theta", "phi")
    )
    weights = torch.einsum("nci,ncj->nij", theta, phi) / g.shape[2]
    y = torch.einsum("nij,ncj->nci", weights, g).reshape(len(x), -1, *x.shape[2:])
    return x + normed(F.conv2d(y, state[f"{p}.W.0.weight"], state[f"{p}.W.0.bias"]), state, f"{p}.W.1")


def gem(features: Tensor, power: float) -> Tensor:
    return (features.clamp(min=1e-6) ** power).mean((2, 3)) ** (1 / power)


def run_resnet(x: Tensor, state: State, *, last_stride: int, relu: bool, padded: bool) -> Tensor:
    x = normed(F.conv2d(x, state["conv1.weight"], stride=2, padding=3), state, "bn1")
    x = x.relu() if relu else x
    x = F.max_pool2d(x, 3, 2, padding=1) if padded else F.max_pool2d(x, 3, 2, ceil_mode=True)
    for stage in (1, 2, 3, 4):
        count = len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")})
        non_locals = len({key.split(".")[1] for key in state if key.startswith(f"NL_{stage}.")})
        for block in range(count):
            p = f"layer{stage}.{block}"
            stride = 1 if block or stage == 1 else last_stride if stage == 4 else 2
            three = f"{p}.conv3.weight" in state
            y = x
            for number in (1, 2, 3) if three else (1, 2):
                weight = state[f"{p}.conv{number}.weight"]
                here = stride if number == (2 if three else 1) else 1
                y = normed(F.conv2d(y, weight, stride=here, padding=weight.shape[2] // 2), state, f"{p}.bn{number}")
                y = y if number == (3 if three else 2) else y.relu()
            if f"{p}.downsample.0.weight" in state:
                x = normed(F.conv2d(x, state[f"{p}.downsample.0.weight"], stride=stride), state, f"{p}.downsample.1")
            x = (x + y).relu()
            if block >= count - non_locals:
                x = run_non_local(x, state, f"NL_{stage}.{block - count + non_locals}")
    return x


def run_split_attention(x: Tensor, state: State, p: str, *, dilation: int = 1) -> Tensor:
    """Zhang et al., 2020: two groups of feature maps, whose shares at each channel are a softmax over the two."""
    halves = F.conv2d(x, state[f"{p}.conv.weight"], padding=dilation, dilation=dilation, groups=2)
    first, second = normed(halves, state, f"{p}.bn0").relu().chunk(2, 1)
    pooled = (first + second).mean((2, 3), keepdim=True)
    hidden = normed(F.conv2d(pooled, state[f"{p}.fc1.weight"], state[f"{p}.fc1.bias"]), state, f"{p}.bn1").relu()
    one, two = F.conv2d(hidden, state[f"{p}.fc2.weight"], state[f"{p}.fc2.bias"]).chunk(2, 1)
    share = torch.sigmoid(one - two)  # the softmax of two numbers
    return share * first + (1 - share) * second


def run_resnest(x: Tensor, state: State, *, last_stride: int) -> Tensor:
    for place, after, stride in ((0, "conv1.1", 2), (3, "conv1.4", 1), (6, "bn1", 1)):
        x = normed(F.conv2d(x, state[f"conv1.{place}.weight"], stride=stride, padding=1), state, after).relu()
    x = F.max_pool2d(x, 3, 2, padding=1)
    for stage in (1, 2, 3, 4):
        count = len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")})
        non_locals = len({key.split(".")[1] for key in state if key.startswith(f"NL_{stage}.")})
        for block in range(count):
            p = f"layer{stage}.{block}"
            stride = last_stride if stage == 4 else 2
            y = normed(F.conv2d(x, state[f"{p}.conv1.weight"]), state, f"{p}.bn1").relu()
            # fast-reid without non-local blocks in its ResNeSt dilates where it does not stride
            is_dilated = (
                stage == 4 and block > 0 and last_stride == 1 and not any(key.startswith("NL_") for key in state)
            )
            y = run_split_attention(y, state, f"{p}.conv2", dilation=1 + is_dilated)
            if block == 0 and stage > 1:  # pools also where the stride is 1
                y = F.avg_pool2d(y, 3, stride, padding=1)
            y = normed(F.conv2d(y, state[f"{p}.conv3.weight"]), state, f"{p}.bn3")
            if block == 0:
                if stage > 1:
                    x = F.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False)
                x = normed(F.conv2d(x, state[f"{p}.downsample.1.weight"]), state, f"{p}.downsample.2")
            x = (x + y).relu()
            if block >= count - non_locals:
                x = run_non_local(x, state, f"NL_{stage}.{block - count + non_locals}")
    return x


def run_mobilenet(x: Tensor, state: State) -> Tensor:
    x = F.relu6(normed(F.conv2d(x, state["features.0.0.weight"], stride=2, padding=1), state, "features.0.1"))
    for number, (expansion, out, stride) in enumerate(MOBILE, 1):
        p, y, at = f"features.{number}.conv", x, 0
        if expansion > 1:
            y, at = F.relu6(normed(F.conv2d(y, state[f"{p}.0.weight"]), state, f"{p}.1")), 3
        weight = state[f"{p}.{at}.weight"]
        y = F.relu6(normed(F.conv2d(y, weight, None, stride, 1, 1, len(weight)), state, f"{p}.{at + 1}"))
        y = normed(F.conv2d(y, state[f"{p}.{at + 3}.weight"]), state, f"{p}.{at + 4}")
        x = x + y if stride == 1 and x.shape[1] == out else y
    return F.relu6(normed(F.conv2d(x, state["conv.0.weight"]), state, "conv.1"))


def expected(
    images: Tensor,
    backbone: State,
    neck: State | None,
    mean: Any = IMAGENET[0],
    std: Any = IMAGENET[1],
    power: float | None = None,
    reduction: Tensor | None = None,
    **how: Any,
) -> Tensor:
    """The embeddings of `images` uint8 [N, H, W, 3] in the colour order of the toolkit, [N, D].

    They are pooled by the average or, with a `power`, by GeM. `reduction` is [D, C, 1, 1].
    """
    pixels = ((images / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)
    if "conv.0.weight" in backbone:
        features = run_mobilenet(pixels, backbone)
    elif "conv1.0.weight" in backbone:
        features = run_resnest(pixels, backbone, **{"last_stride": 1, **how})
    else:
        features = run_resnet(pixels, backbone, **{"last_stride": 1, "relu": True, "padded": True, **how})
    vectors = features.mean((2, 3)) if power is None else gem(features, power)
    vectors = vectors if reduction is None else vectors @ reduction[:, :, 0, 0].T
    vectors = vectors if neck is None else normed(vectors, neck, "")
    return F.normalize(vectors)


def necked(state: State, prefix: str) -> State:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(f"{prefix}.")}


def pictures(seed: int = 0, size: tuple[int, int] = SIZE["size"]) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, *size, 3), dtype=torch.uint8, generator=generator)


def embedded(saved: checkpoint.Checkpoint, images: Tensor) -> Tensor:
    with torch.inference_mode():
        vectors: Tensor = InferenceGraph(saved.build(), saved.contract).eval()(images)
    return vectors
