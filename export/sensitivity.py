"""Which layers do not bear a coarser number format."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from bot_deploy.images import Pixels
    from bot_deploy.model import InferenceGraph

    Imitation = Callable[
        [nn.Conv2d, Tensor], Tensor
    ]  # a convolution in the other format, by input and output in float32


def layer_errors(graph: InferenceGraph, crops: Pixels, imitate: Imitation) -> dict[str, float]:
    """Each convolution's own error on `crops` uint8 [N, H, W, 3] as `imitate` computes it, its input as in float32.

    Relative to how the output varies within its channels, in the Euclidean norm; infinite or NaN for an overflow.
    """
    found: dict[str, float] = {}

    def watch(name: str, module: nn.Conv2d) -> torch.utils.hooks.RemovableHandle:
        def measure(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            varies = (output - output.mean(dim=(0, 2, 3), keepdim=True)).norm().clamp(min=1e-12)
            found[name] = float((imitate(module, inputs[0]) - output).norm() / varies)

        return module.register_forward_hook(measure)

    handles = [watch(name, conv) for name, conv in _convs(graph).items()]
    try:
        with torch.inference_mode():
            graph(torch.from_numpy(crops))
    finally:
        for handle in handles:
            handle.remove()
    return found


def embedding_costs(graph: InferenceGraph, crops: Pixels, imitate: Imitation) -> dict[str, float]:
    """What each convolution alone costs the embeddings of `crops` uint8 [N, H, W, 3] as `imitate` computes it.

    One minus the mean cosine with the embeddings in float32. A pass over `crops` for each convolution.
    """
    images = torch.from_numpy(crops)
    found: dict[str, float] = {}
    with torch.inference_mode():
        expected = graph(images)
        for name, conv in _convs(graph).items():
            handle = conv.register_forward_hook(lambda module, inputs, _: imitate(module, inputs[0]))
            try:
                found[name] = 1 - float((graph(images) * expected).sum(1).mean())
            finally:
                handle.remove()
    return found


def _convs(graph: InferenceGraph) -> dict[str, nn.Conv2d]:
    return {name: module for name, module in graph.backbone.named_modules() if isinstance(module, nn.Conv2d)}
