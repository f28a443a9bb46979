"""Backbones of timm (PyTorch Image Models, Apache-2.0): how they are built, and how its weights fit into them.

timm is optional, so it is imported inside functions.
"""

from __future__ import annotations

import copy
import difflib
import logging
import math
import socket
import sys
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import Tensor, nn

from .choices import OFFLINE_VARIABLE
from .errors import InputError, RunError, missing_package, on_one_line
from .models.fetch import is_offline
from .telemetry import without_telemetry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PREFIX = "timm:"  # of the names of these backbones
OUTPUT_STRIDE = 16  # of the feature map with a last stride of 1; a network's own is 32
WITH_INSTANCE_NORM = "+in"  # end of the names of those with instance normalisation
INSTANCE_NORM = "instance_norm"  # in the keys of these layers
WEIGHTS_FILE = "model.safetensors"  # in timm's repositories of weights


def import_timm() -> Any:
    """The package timm.

    Raises:
        RunError: it is not installed.
    """
    try:
        with without_telemetry():
            import timm
    except ModuleNotFoundError as error:
        raise missing_package(str(error.name), "timm") from None
    return timm


def pretrained_config(name: str) -> Any:
    """Timm's description of the weights of the network `name`: mean, std, where they are.

    Raises:
        InputError: timm has no such network or weights; the message suggests the nearest name.
        RunError: timm is not installed.
    """
    timm = import_timm()
    if not timm.is_model(name):  # refuses addresses, such as those of a hub, too
        close = difflib.get_close_matches(name, timm.list_models(), n=1, cutoff=0.5)
        suggestion = f" (did you mean {PREFIX}{close[0]}?)" if close else ""
        raise InputError(f"timm {timm.__version__} has no network {name!r}{suggestion}", parameter="set")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise InputError(f"{PREFIX}{name}: {on_one_line(error)}", parameter="set") from None
    if len(config.mean) != 3 or len(config.std) != 3:  # noqa: PLR2004
        raise InputError(f"{PREFIX}{name} does not take RGB images; choose another network", parameter="set")
    return config


def build(
    name: str, last_stride: int, _stem: str, size: tuple[int, int], *, instance_norm: bool = False
) -> tuple[nn.Module, int]:
    """The network `name` without pooling and classifier, and the channels of its feature map.

    With `instance_norm`, every stage but the last one ends in instance normalisation (Jia et al., BMVC 2019).

    With `last_stride` 1 the output stride is 16, if timm can build the network with it. A network that is bound to one
    size of images, such as a vision transformer, is built for `size`.

    Raises:
        InputError: no such network, or one without a feature map for images of this size.
        RunError: timm is not installed.
    """
    config, timm = pretrained_config(name), import_timm()
    options: dict[str, Any] = {"num_classes": 0, "global_pool": ""}
    if config.fixed_input_size:
        options["img_size"] = size
    try:
        net = None
        if last_stride == 1:
            net = _with_output_stride(timm, name, options)
        net = net or timm.create_model(name, pretrained=False, **options)
        layers: OrderedDict[str, nn.Module] = OrderedDict(net=net)
        to_map, channels = _feature_map(net, size)
        if instance_norm:
            add_instance_norm(net)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - a thousand networks raise anything
        raise InputError(
            f"{PREFIX}{name} gives no feature map for images of {size[0]}x{size[1]} ({on_one_line(error)}); choose "
            "another network",
            parameter="set",
        ) from None
    if to_map:
        layers["map"] = to_map
    return nn.Sequential(layers), channels


class _NormalisedStage(nn.Module):
    """A stage of a network, and instance normalisation after it."""

    def __init__(self, stage: nn.Module, channels: int) -> None:
        super().__init__()
        self.stage = stage
        self.instance_norm = nn.InstanceNorm2d(channels, affine=True)

    def forward(self, features: Tensor) -> Tensor:
        normalised: Tensor = self.instance_norm(self.stage(features))
        return normalised


def add_instance_norm(net: nn.Module) -> None:
    """Ends each stage of `net` but the last one in instance normalisation, by what timm knows of its feature maps.

    Raises:
        InputError: the network has no stages of convolutions, each with a smaller map than the one before.
    """
    stages: list[dict[str, Any]] = list(getattr(net, "feature_info", []))
    reductions = [stage["reduction"] for stage in stages]
    if len(set(reductions)) < 2 or sorted(reductions) != reductions or getattr(net, "output_fmt", "NCHW") != "NCHW":  # noqa: PLR2004
        raise InputError(
            f"{type(net).__name__} has no stages of convolutions, after which instance normalisation could stand; "
            f"leave {WITH_INSTANCE_NORM} out of its name",
            parameter="set",
        )
    for stage in stages[:-1]:
        net.set_submodule(stage["module"], _NormalisedStage(net.get_submodule(stage["module"]), stage["num_chs"]))


def build_resnest(name: str, last_stride: int, *, dilated: bool = True) -> tuple[OrderedDict[str, nn.Module], int]:
    """The layers of the ResNeSt `name` (Zhang et al., 2020) with the last stride of fast-reid, and its channels.

    With `last_stride` 1, the pooling after the split attention of the last stage keeps its kernel of 3, and its
    shortcut pools nothing. With `dilated` too, its blocks but the first have split attentions with a dilation of 2.

    Raises:
        RunError: timm is not installed.
    """
    net = import_timm().create_model(name, pretrained=False, num_classes=0, global_pool="")
    if last_stride == 1:
        block = net.layer4[0]
        block.avd_last, block.downsample[0] = nn.AvgPool2d(3, 1, padding=1), nn.Identity()
        for later in net.layer4[1:] if dilated else ():
            later.conv2.conv.dilation = later.conv2.conv.padding = (2, 2)
    layers = ((name, layer) for name, layer in net.named_children() if name not in {"global_pool", "fc"})
    return OrderedDict(layers), net.num_features


def _with_output_stride(timm: Any, name: str, options: dict[str, Any]) -> nn.Module | None:
    """The network with OUTPUT_STRIDE; None if timm cannot build it so."""
    try:
        net: nn.Module = timm.create_model(name, pretrained=False, output_stride=OUTPUT_STRIDE, **options)
    except (TypeError, ValueError, AssertionError, NotImplementedError):
        return None
    return net


class _FeatureMap(nn.Module):
    """The output of a network as a feature map [N, C, H, W]: from tokens [N, L, C], or from [N, H, W, C]."""

    def __init__(self, prefix_tokens: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.prefix_tokens, self.grid = prefix_tokens, grid

    def forward(self, features: Tensor) -> Tensor:
        if features.ndim == 3:  # noqa: PLR2004 - tokens
            # The number of images stays symbolic in an export, which len() would not allow.
            features = features[:, self.prefix_tokens :].reshape(features.shape[0], *self.grid, -1)
        return features.permute(0, 3, 1, 2)


def _feature_map(net: nn.Module, size: tuple[int, int]) -> tuple[nn.Module | None, int]:
    """The layer that makes a feature map of the output of `net`, None if it is one, and the number of channels.

    Raises:
        Exception: anything, if `net` fails on such images or its output is no map.
    """
    height, width = size
    probe = copy.deepcopy(net).to("meta").eval()  # computes shapes alone
    with torch.no_grad():
        output = probe(torch.zeros(2, 3, height, width, device="meta"))
    if output.ndim == 3:  # noqa: PLR2004 - tokens, with the class token and the like before those of the image
        prefix_tokens = int(getattr(net, "num_prefix_tokens", 0))
        tokens = output.shape[1] - prefix_tokens
        columns = max(1, round(math.sqrt(tokens * width / height)))
        if tokens % columns:
            raise ValueError(f"{tokens} tokens are no grid")
        return _FeatureMap(prefix_tokens, (tokens // columns, columns)), output.shape[2]
    if output.ndim != 4:  # noqa: PLR2004
        raise ValueError(f"an output with {output.ndim} dimensions")
    if getattr(net, "output_fmt", "NCHW") == "NHWC":
        return _FeatureMap(0, (output.shape[1], output.shape[2])), output.shape[3]
    return None, output.shape[1]


# ---- weights ----


def fit_weights(net: nn.Module, name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state`, in timm's layout for the network `name`, as `net` of `build` takes it.

    The classifier is left out, and a position embedding for another size of images is resized, as timm does it.

    Raises:
        InputError: the weights are those of another kind of network.
    """
    classifiers = pretrained_config(name).classifier or ()
    names = (classifiers,) if isinstance(classifiers, str) else classifiers
    normalised = [path for path, module in net.named_modules() if isinstance(module, _NormalisedStage)]
    dropped = {f"{classifier}.{kind}" for classifier in names for kind in ("weight", "bias")}
    given = {key: value for key, value in state.items() if key not in dropped}
    given = {_key_in_stage(key, normalised): value for key, value in given.items()}
    own = net.state_dict()
    if "fc_norm.weight" in given and "fc_norm.weight" not in own:  # the norm after timm's own pooling
        given = {key.replace("fc_norm.", "norm.") if key.startswith("fc_norm.") else key: given[key] for key in given}
    if normalised or all(key in own and own[key].shape == value.shape for key, value in given.items()):
        return given
    adapt = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if adapt is None:
        return given
    try:
        with torch.no_grad():
            return dict(adapt(given, net))
    except Exception as error:  # noqa: BLE001 - keys and shapes that timm did not expect
        raise InputError(f"not the weights of {PREFIX}{name} ({on_one_line(error)})") from None


def _key_in_stage(key: str, normalised: Sequence[str]) -> str:
    """The key of a weight whose stage may be one of those with instance normalisation."""
    stage = next((path for path in normalised if key.startswith(f"{path}.")), None)
    return key if stage is None else f"{stage}.stage{key.removeprefix(stage)}"


def resize_weights(
    name: str, state: Mapping[str, Tensor], size: tuple[int, int], new_size: tuple[int, int]
) -> dict[str, Tensor]:
    """`state` of the network `name` for images of `size`, with position embeddings and the like for `new_size`.

    Raises:
        InputError: other weights, or a network that cannot be resized.
    """
    net: Any = build(name, 2, "", size)[0].get_submodule("net")
    try:
        net.load_state_dict(state)
        net.set_input_size(img_size=new_size)
    except (AttributeError, RuntimeError, TypeError) as error:
        raise InputError(f"weights for images of {size[0]}x{size[1]} ({on_one_line(error)})") from None
    return dict(net.state_dict())


def download_weights(name: str) -> Path:
    """The file with timm's weights of the network `name`, from the cache or the network.

    Raises:
        InputError: timm has no weights of this network, or $BOT_OFFLINE forbids to fetch them.
        RunError: the file could not be downloaded.
    """
    config = pretrained_config(name)
    if not config.hf_hub_id:
        raise InputError(f'timm has no weights of {name}; give a file, or "none"', parameter="weights")
    with without_telemetry():
        from huggingface_hub import constants, hf_hub_download
    place = {"repo_id": config.hf_hub_id, "filename": WEIGHTS_FILE}
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)  # a line for each of many tries
    try:
        try:
            return Path(hf_hub_download(**place, local_files_only=True))
        except OSError:
            if is_offline():
                raise InputError(
                    f"the weights of {PREFIX}{name} are not in the cache, and ${OFFLINE_VARIABLE} forbids to fetch "
                    'them; give a file, or "none"',
                    parameter="weights",
                ) from None
            if not getproxies():  # without a network, the download would try for half a minute
                socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
            return Path(hf_hub_download(**place))
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - its HTTP library raises anything
        raise RunError(
            f"the weights of {PREFIX}{name} could not be downloaded ({on_one_line(error)}); give a file, or "
            '"none" to start from random weights',
            parameter="weights",
        ) from None
    finally:
        logger.setLevel(level)
