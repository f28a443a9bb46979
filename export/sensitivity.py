"""How sensitive each layer is to a coarser number format."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from bot_deploy.images import Pixels
    from bot_deploy.model import InferenceGraph

    # (convolution, its input in float32) -> its output in float32, as the other format would compute it
    Imitation = Callable[[nn.Conv2d, Tensor], Tensor]


def layer_errors(graph: InferenceGraph, crops: Pixels, imitate: Imitation) -> dict[str, float]:
    """The relative error of each convolution on `crops` uint8 [N, H, W, 3], with its input in float32.

    The error of `imitate` is divided by the variation of the output within its channels, in the Euclidean norm. After
    an overflow it is infinite or NaN.

    Returns:
        Name of the convolution in the backbone -> error.
    """
    errors: dict[str, float] = {}

    def measure_calls(name: str, module: nn.Conv2d) -> torch.utils.hooks.RemovableHandle:
        def measure(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            variation = (output - output.mean(dim=(0, 2, 3), keepdim=True)).norm().clamp(min=1e-12)
            errors[name] = float((imitate(module, inputs[0]) - output).norm() / variation)

        return module.register_forward_hook(measure)

    handles = [measure_calls(name, conv) for name, conv in _convolutions(graph).items()]
    try:
        with torch.inference_mode():
            graph(torch.from_numpy(crops))
    finally:
        for handle in handles:
            handle.remove()
    return errors


def embedding_costs(graph: InferenceGraph, crops: Pixels, imitate: Imitation) -> dict[str, float]:
    """The cost of each convolution to the embeddings of `crops` uint8 [N, H, W, 3], if `imitate` computes it alone.

    The cost is one minus the mean cosine with the embeddings in float32. Takes one pass over `crops` for each
    convolution.

    Returns:
        Name of the convolution in the backbone -> cost.
    """
    images = torch.from_numpy(crops)
    costs: dict[str, float] = {}
    with torch.inference_mode():
        expected = graph(images)
        for name, conv in _convolutions(graph).items():
            handle = conv.register_forward_hook(lambda module, inputs, _: imitate(module, inputs[0]))
            try:
                costs[name] = 1 - float((graph(images) * expected).sum(1).mean())
            finally:
                handle.remove()
    return costs


def _convolutions(graph: InferenceGraph) -> dict[str, nn.Conv2d]:
    return {name: module for name, module in graph.backbone.named_modules() if isinstance(module, nn.Conv2d)}
