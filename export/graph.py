"""The network as it is exported: nothing of training left in it, batch-norm folded into the convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bot_deploy.model import InferenceGraph

if TYPE_CHECKING:
    from bot_deploy.artifacts.checkpoint import Checkpoint
    from bot_deploy.artifacts.contract import Contract


def inference_graph(checkpoint: Checkpoint, contract: Contract) -> InferenceGraph:
    """The complete graph in float32 with the weights of `checkpoint`, as `contract` wants it (feature, flip)."""
    graph = InferenceGraph(checkpoint.build(), contract).eval()
    _fold(graph.backbone)
    return graph


def _fold(module: nn.Module) -> None:
    """Folds each batch-norm into the convolution before it, so that rounding sees the weights that are multiplied."""
    before: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):  # torchvision registers them in the order they run in
        if isinstance(child, nn.BatchNorm2d) and before and isinstance(before[1], nn.Conv2d):
            setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
            setattr(module, name, nn.Identity())
        else:
            _fold(child)
        before = name, child
