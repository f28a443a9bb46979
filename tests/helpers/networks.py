"""Checks of networks that several tests make: batch-norm folded for the export, and weights that see edges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from bot_deploy.artifacts.checkpoint import Checkpoint, contract_of
from bot_deploy.export.graph import inference_graph
from bot_deploy.model import InferenceGraph, ReID

if TYPE_CHECKING:
    from torch import nn


def left_after_folding(arch: str) -> tuple[ReID, list[nn.Module]]:
    """A network, and the batch-norms of its exported graph that were not folded; the embeddings are compared."""
    torch.manual_seed(0)
    model = ReID(arch, 3, size=(64, 32)).train()
    model(torch.randn(8, 3, 64, 32))  # statistics to fold
    contract = contract_of(model, 64, 32)
    saved = Checkpoint(contract, model.state_dict(), 3, 1, "bnneck", ("none",))
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3), dtype=np.uint8))
    plain, folded = InferenceGraph(model.eval(), contract), inference_graph(saved, contract)
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), plain(images), atol=1e-5, rtol=0)
    return model, [module for module in folded.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def assert_sees_edges(model: ReID) -> None:
    """Trained filters detect edges: unlike random ones, they distinguish stripes from their flat mean."""
    model.eval()
    stripes = torch.zeros(2, 3, 64, 64)
    stripes[0, :, :, ::8] = 2
    stripes[1] = stripes[0].mean()
    with torch.inference_mode():
        features = model.backbone(stripes).mean(dim=(2, 3))
    assert torch.isfinite(features).all()
    assert float(torch.cosine_similarity(features[0], features[1], dim=0)) < 0.9
