"""The network as it is exported: without the classifier, and with batch-norm folded into the convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bot_deploy.model import InferenceGraph

if TYPE_CHECKING:
    from bot_deploy.artifacts.checkpoint import Checkpoint
    from bot_deploy.artifacts.contract import Contract


def inference_graph(checkpoint: Checkpoint, contract: Contract) -> InferenceGraph:
    """The complete graph in float32 with the weights of `checkpoint`, with feature and flip of `contract`."""
    graph = InferenceGraph(checkpoint.build(), contract).eval()
    _fold_batch_norms(graph.backbone)
    return graph


def _fold_batch_norms(module: nn.Module) -> None:
    """Folds each batch-norm into the convolution before it, so that rounding applies to the weights that are used."""
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):  # in torchvision, the order in which they run
        if isinstance(child, nn.BatchNorm2d) and previous and isinstance(previous[1], nn.Conv2d):
            setattr(module, previous[0], fuse_conv_bn_eval(previous[1], child))
            setattr(module, name, nn.Identity())
        else:
            _fold_batch_norms(child)
        previous = name, child
