"""How sensitive each layer is to a coarser number format."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from bot_deploy.images import Pixels
    from bot_deploy.model import InferenceGraph

    Layer = nn.Conv2d | nn.Linear
    # (layer, its input in float32) -> its output in float32, as the other format would compute it
    Imitation = Callable[[Layer, Tensor], Tensor]


def layer_errors(graph: InferenceGraph, crops: Pixels, imitate: Imitation) -> dict[str, float]:
    """The relative error of each convolution and linear layer on `crops` uint8 [N, H, W, 3], with its input in float32.

    The error of `imitate` is divided by the variation of the output within its channels, in the Euclidean norm. After
    an overflow it is infinite or NaN.

    Returns:
        Name of the layer in the backbone -> error, for those that the backbone calls.
    """
    errors: dict[str, float] = {}

    def measure_calls(name: str, module: Layer) -> torch.utils.hooks.RemovableHandle:
        def measure(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            inner = (0, 2, 3) if isinstance(module, nn.Conv2d) else tuple(range(output.ndim - 1))
            variation = (output - output.mean(dim=inner, keepdim=True)).norm().clamp(min=1e-12)
            errors[name] = float((imitate(module, inputs[0]) - output).norm() / variation)

        return module.register_forward_hook(measure)

    handles = [measure_calls(name, layer) for name, layer in _layers(graph).items()]
    try:
        with torch.inference_mode():
            graph(torch.from_numpy(crops))
    finally:
        for handle in handles:
            handle.remove()
    return errors


def embedding_costs(graph: InferenceGraph, crops: Pixels, imitate: Imitation) -> dict[str, float]:
    """The cost of each layer to the embeddings of `crops` uint8 [N, H, W, 3], if `imitate` computes it alone.

    The cost is one minus the mean cosine with the embeddings in float32. Takes one pass over `crops` for each
    layer.

    Returns:
        Name of the layer in the backbone -> cost.
    """
    images = torch.from_numpy(crops)
    costs: dict[str, float] = {}
    with torch.inference_mode():
        expected = graph(images)
        for name, layer in _layers(graph).items():
            handle = layer.register_forward_hook(lambda module, inputs, _: imitate(module, inputs[0]))
            try:
                costs[name] = 1 - float((graph(images) * expected).sum(1).mean())
            finally:
                handle.remove()
    return costs


def run_with(layer: Layer, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The output of `layer` with other parameters."""
    changed = copy.copy(layer)
    changed._parameters = {"weight": weight, "bias": bias}  # type: ignore[dict-item] # noqa: SLF001
    return changed.forward(features)


def _layers(graph: InferenceGraph) -> dict[str, Layer]:
    return {
        name: module for name, module in graph.backbone.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    }
