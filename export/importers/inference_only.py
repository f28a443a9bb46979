"""Imports networks that run here but are not trained here, as model files: OSNet, MGN, TransReID, CLIP-ReID.

Each has a module that builds the network from the state dict. The ONNX file is compared with PyTorch, as an export is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bot_deploy.artifacts.checkpoint import contract_of
from bot_deploy.artifacts.state_dict import match_state_dict
from bot_deploy.backends.torch import runner
from bot_deploy.choices import IMAGE_HEIGHT, IMAGE_WIDTH, MEAN, STD, SYNTHETIC
from bot_deploy.datasets import Dataset, open_dataset
from bot_deploy.embedder import Embedder, open_embedder
from bot_deploy.errors import InputError, RunError, on_one_line
from bot_deploy.export.exported_model import ExportedModel, publish, unverified_path
from bot_deploy.export.parity import TOLERANCES, compare_embeddings, sample_crops
from bot_deploy.export.to_onnx import onnx_model, save_with_contract
from bot_deploy.files import prepare_output
from bot_deploy.model import InferenceGraph

from .checkpoint import read_state_dict
from .key_layouts import INFERENCE_NETWORKS, find_inference_network
from .settings import Rgb, check_color, check_feature, take_rgb, with_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CONVOLUTION_DIMS = 4  # of the weight of a convolution
MAX_CHANNELS = 4096  # of a layer; a damaged file could ask for terabytes
MALFORMED = (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError, RuntimeError)  # of tensors of odd shapes


@dataclass(frozen=True)
class InferenceParts:
    """A network that one of the modules in `INFERENCE_NETWORKS` built from a state dict."""

    arch: str
    backbone: nn.Module  # normalised images [N, 3, H, W] -> the feature before the neck, [N, D]
    neck: nn.BatchNorm1d | None
    dim: int
    unused: tuple[str, ...]  # keys of the file that only training needs
    feature: str = "before"  # "after" or "before" the neck: what its authors score
    assumptions: tuple[str, ...] = ()  # settings that the weights do not show, as phrases
    mean: Rgb = MEAN  # of the normalisation
    std: Rgb = STD


@dataclass(frozen=True)
class ImportedModel:
    """The model file, with the assumptions that were made."""

    model: ExportedModel
    arch: str
    has_neck: bool
    feature: str  # "after" or "before" the neck
    dim: int
    assumptions: tuple[str, ...]
    unused_keys: tuple[str, ...]


class InferenceNetwork(nn.Module):
    """The parts of a network as `InferenceGraph` takes them."""

    def __init__(self, parts: InferenceParts, feature: str) -> None:
        super().__init__()
        self.arch, self.dim, self.feature, self.mean, self.std = parts.arch, parts.dim, feature, parts.mean, parts.std
        self.backbone: nn.Module = _AsFeatureMap(parts.backbone)
        self.pool: nn.Module | None = None
        self.reduction: nn.Module = nn.Identity()
        self.neck: nn.Module = parts.neck or nn.Identity()


class _AsFeatureMap(nn.Module):
    """Vectors [N, D] as feature maps [N, D, 1, 1], whose average they are."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        vectors: Tensor = self.network(images)
        return vectors[:, :, None, None]


def import_for_inference(
    path: str | Path,
    out: str | Path,
    *,
    size: tuple[int, int] = (IMAGE_HEIGHT, IMAGE_WIDTH),
    color: str = "RGB",
    feature: str | None = None,
    data: str | Path | Dataset = SYNTHETIC,
    terms: str = "",
) -> ImportedModel:
    """Converts the state dict in `path` to a model file at `out`; no key is ignored.

    A model whose embeddings differ from PyTorch's is kept as *.rejected; check `ImportedModel.model.rejected`.

    Args:
        path: the file; its state dict is bare or under "model" or "state_dict".
        out: the .onnx file to write.
        size: height and width of the crops in pixels.
        color: channel order that the network was trained on, "RGB" or "BGR".
        feature: "after" or "before" the neck; None for the one that the toolkit scores.
        data: data set with crops to compare on, opened or not.
        terms: what the model may be used for, in a sentence; kept in the contract.

    Raises:
        InputError: no such file, pickled code in it, another network, unknown or missing weights, or an unknown color
            or feature.
        RunError: timm is needed and not installed, or the file cannot be written.
    """
    path, out = Path(path), Path(out)
    parts, graph, reference = build_embedder(path, size, color=color, feature=feature)
    contract = replace(reference.contract, terms=terms)
    prepare_output(out, "the model file", [".onnx"])
    dataset = data if isinstance(data, Dataset) else open_dataset(data)
    crops = sample_crops(dataset, contract.size)
    with unverified_path(out) as unverified:
        save_with_contract(onnx_model(graph.cpu(), contract), contract, unverified)
        parity = compare_embeddings(reference, open_embedder(unverified, check=False), crops, TOLERANCES["fp32"])
        model = ExportedModel(publish(unverified, out, parity), "fp32", dataset.name, parity)
    return ImportedModel(
        model,
        parts.arch,
        has_neck=parts.neck is not None,
        feature=contract.feature,
        dim=parts.dim,
        assumptions=parts.assumptions,
        unused_keys=parts.unused,
    )


def build_embedder(
    path: Path, size: tuple[int, int], *, color: str = "RGB", feature: str | None = None
) -> tuple[InferenceParts, InferenceGraph, Embedder]:
    """The network whose state dict is in `path`, its graph from crop to vector, and an embedder that runs the graph.

    Arguments and errors are those of `import_for_inference`.
    """
    check_color(color)
    parts = build_network(path, size)
    feature = parts.feature if feature is None else feature
    try:
        check_feature(feature, has_neck=parts.neck is not None)
    except InputError as error:
        raise InputError(f"{path}: {error}", parameter=error.parameter) from None
    if color == "BGR":
        first = next(value for value in parts.backbone.parameters() if value.ndim == CONVOLUTION_DIMS)
        mean, std = take_rgb(first, parts.mean, parts.std)
        parts = replace(parts, mean=mean, std=std)
    network = InferenceNetwork(parts, feature).eval()
    contract = contract_of(network, *size)
    contract = with_settings(contract, contract.arch, contract.feature, contract.mean, contract.std)
    graph = InferenceGraph(network, contract).eval()
    reference = Embedder(contract, "PyTorch", runner(graph, "cpu"))
    try:
        reference.check()
    except (RunError, ValueError) as error:  # PyTorch's instance norm raises ValueError for a map of one pixel
        height, width = size
        raise InputError(
            f"{path}: cannot embed crops of {height}x{width}; name the size it was trained on ({on_one_line(error)})",
            parameter="size",
        ) from None
    return parts, graph, reference


def build_network(path: Path, size: tuple[int, int]) -> InferenceParts:
    """The network whose state dict is in `path`, for images of `size`; raises as `import_for_inference`."""
    state = read_state_dict(path)
    name = find_inference_network(state)
    if name is None:
        raise InputError(
            f"{path}: a network that becomes an .onnx is one of {', '.join(INFERENCE_NETWORKS)}; others become a "
            "checkpoint: name a .pt file"
        )
    module = import_module(f"bot_deploy.export.importers.{INFERENCE_NETWORKS[name].module}")
    try:
        parts: InferenceParts = module.build(state, size)
    except InputError as error:
        raise InputError(f"{path}: {error}", parameter=error.parameter) from None
    except MALFORMED as error:
        raise InputError(f"{path}: its weights are not those of {name} ({on_one_line(error)})") from None
    return parts


def count_channels(state: Mapping[str, Tensor], key: str) -> int:
    """The first dimension of the tensor `key`, by which a layer is built.

    Raises:
        InputError: no such tensor, or one that is too large for a layer.
    """
    if key not in state:
        raise InputError(f"missing keys: {key}")
    shape = list(state[key].shape)
    if not shape or not 1 <= shape[0] <= MAX_CHANNELS:
        raise InputError(f"{key} has the shape {shape}; 1 to {MAX_CHANNELS:,} channels can be imported")
    return int(shape[0])


def join_necks(
    state: Mapping[str, Tensor], names: Iterable[str], lengths: Iterable[int], scales: Iterable[float]
) -> nn.BatchNorm1d:
    """One batch-norm for the concatenation of scaled features, from the batch-norms `names` of each.

    For a feature x of its length and its scale s it gives s batch-norm(x) where it gets s x.

    Raises:
        InputError: a weight is missing or has another length.
    """
    fields = ("weight", "bias", "running_mean", "running_var")
    joined: dict[str, list[Tensor]] = {field: [] for field in fields}
    for name, length, scale in zip(names, lengths, scales, strict=True):
        missing = [f"{name}.{field}" for field in fields if f"{name}.{field}" not in state]
        if missing:
            raise InputError(f"missing keys: {', '.join(missing)}")
        wrong = [key for key in (f"{name}.{field}" for field in fields) if state[key].shape != (length,)]
        if wrong:
            raise InputError(f"keys of another shape: {', '.join(wrong)}, where the feature has {length} numbers")
        weight, bias, mean, variance = (state[f"{name}.{field}"].float() for field in fields)
        eps = nn.BatchNorm1d(1).eps
        scaled = (weight * scale, bias * scale, mean * scale, (variance + eps) * scale**2 - eps)
        for field, value in zip(fields, scaled, strict=True):
            joined[field].append(value)
    tensors = {field: torch.cat(values) for field, values in joined.items()}
    neck = nn.BatchNorm1d(len(tensors["weight"]))
    neck.load_state_dict(tensors, strict=False)  # all but the counter of batches
    return neck


def load_network(
    network: nn.Module, given: Mapping[str, Tensor], necks: Iterable[str], training_only: str
) -> tuple[str, ...]:
    """Loads the weights `given` into `network`; those of `necks` are for others. Returns keys that only training needs.

    Raises:
        InputError: unknown or missing keys, or other shapes.
    """
    own = network.state_dict()
    prefixes = tuple(f"{name}." for name in necks)
    in_necks = [key for key in given if key.startswith(prefixes)]
    unused, unknown = split_unused(given, [*own, *in_necks], training_only)
    used = {key: value for key, value in given.items() if key in own}
    network.load_state_dict(match_state_dict(used, own, unknown=unknown))
    return unused


def split_unused(keys: Iterable[str], used: Iterable[str], training_only: str) -> tuple[tuple[str, ...], list[str]]:
    """The keys that only training needs, and those that are unknown; `used` have a place in the network."""
    placed = set(used)
    rest = [key for key in keys if key not in placed]
    unused = tuple(key for key in rest if re.match(training_only, key))
    return unused, [key for key in rest if not re.match(training_only, key)]
