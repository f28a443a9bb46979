"""The network as it is exported: without the classifier, and with batch-norm folded into the convolutions."""

from __future__ import annotations

import copy
from collections import Counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bot_deploy.model import InferenceGraph

if TYPE_CHECKING:
    from bot_deploy.artifacts.checkpoint import Checkpoint
    from bot_deploy.artifacts.contract import Contract


def inference_graph(checkpoint: Checkpoint, contract: Contract) -> InferenceGraph:
    """The complete graph in float32 with the weights of `checkpoint`, with feature and flip of `contract`."""
    graph = InferenceGraph(checkpoint.build(), contract).eval()
    _fold_batch_norms(graph.backbone, contract.size)
    return graph


def _fold_batch_norms(backbone: nn.Module, size: tuple[int, int]) -> None:
    """Folds each batch-norm into the convolution before it, so that rounding applies to the weights that are used."""
    for norm_name, conv_name in _norms_of_convolutions(backbone, size).items():
        norm, conv = backbone.get_submodule(norm_name), backbone.get_submodule(conv_name)
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(conv, nn.Conv2d)
        replace_layer(backbone, conv_name, fuse_conv_bn_eval(conv, norm))
        # Those of timm hold the activation, too.
        activation = getattr(norm, "act", None)
        replace_layer(backbone, norm_name, activation if isinstance(activation, nn.Module) else nn.Identity())


def _norms_of_convolutions(backbone: nn.Module, size: tuple[int, int]) -> dict[str, str]:
    """Name of a batch-norm -> name of the convolution whose output it takes, where each runs once."""
    probe = copy.deepcopy(backbone).to("meta")  # runs without data
    calls: Counter[str] = Counter()
    outputs: dict[int, tuple[str, Tensor, int]] = {}  # the tensors are kept, so that each has an id of its own
    pairs: dict[str, str] = {}

    def after_convolution(name: str, output: Tensor) -> None:
        calls[name] += 1
        outputs[id(output)] = name, output, output._version  # noqa: SLF001

    def before_norm(name: str, features: Tensor) -> None:
        calls[name] += 1
        conv, _, version = outputs.get(id(features), ("", features, 0))
        if conv and features._version == version:  # noqa: SLF001 - no activation has changed it in place
            pairs[name] = conv

    for name, module in probe.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, __, output, name=name: after_convolution(name, output))
        elif isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda _, inputs, name=name: before_norm(name, inputs[0]))
    with torch.no_grad():
        probe(torch.zeros(1, 3, *size, device="meta"))
    return {norm: conv for norm, conv in pairs.items() if calls[norm] == calls[conv] == 1}


def replace_layer(module: nn.Module, name: str, layer: nn.Module) -> None:
    """Puts `layer` in the place of the submodule `name`."""
    parent, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(parent), attribute, layer)
