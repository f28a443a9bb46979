"""The features that the network in training gives crops, without augmentation."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from bot_deploy.artifacts.checkpoint import contract_of
from bot_deploy.model import InferenceGraph
from bot_deploy.progress import show_progress

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from bot_deploy.model import ReID

    from .data import TrainingSet

BATCH = 64  # crops that are embedded together


def compute_features(
    model: ReID, crops: TrainingSet, rows: npt.NDArray[np.int64], device: str, label: str | None
) -> Tensor:
    """f_t [len(rows), D] of these crops; `label` names them on the progress bar. Sets evaluation mode."""
    contract = dataclasses.replace(contract_of(model, *crops.size), feature="before", flip=False)
    graph = InferenceGraph(model.eval(), contract, unit_length=False).to(device).eval()
    starts = range(0, len(rows), BATCH)
    with torch.no_grad():
        parts = [
            graph(crops.pixels(rows[start : start + BATCH]).to(device))
            for start in show_progress(starts, label, len(starts))
        ]
    return torch.cat(parts)
