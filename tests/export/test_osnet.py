"""OSNet, plain, with IBN and AIN, against a plain forward pass by the keys of torchreid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.osnet import SIZE, expected_vectors, osnet
from helpers.toolkits import pictures

from bot_deploy import open_embedder
from bot_deploy.errors import InputError
from bot_deploy.export.importers.inference_only import build_embedder, import_for_inference


@pytest.mark.parametrize("kind", ["plain", "ibn", "ain"])
def test_the_network_embeds_as_the_formulas_do(kind: str, tmp_path: Path) -> None:
    state = osnet(kind)
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "theirs.pt")
    parts, _, embedder = build_embedder(tmp_path / "theirs.pt", SIZE)
    assert parts.arch == {"plain": "osnet", "ibn": "osnet-ibn", "ain": "osnet-ain"}[kind]
    images = pictures(size=SIZE)
    vectors = embedder.embed(list(images.numpy()))
    np.testing.assert_allclose(vectors, expected_vectors(state, images), atol=2e-5)
    assert float((vectors @ vectors.T - np.eye(3)).max()) < 0.9995  # the images have different embeddings


def test_the_model_file_embeds_as_the_formulas_do(tmp_path: Path) -> None:
    state = osnet("ain")
    torch.save(state, tmp_path / "theirs.pt")
    imported = import_for_inference(tmp_path / "theirs.pt", tmp_path / "ours.onnx", size=SIZE)
    assert imported.unused_keys == ("classifier.weight", "classifier.bias")
    assert not imported.model.rejected
    images = pictures(size=SIZE)
    vectors = open_embedder(tmp_path / "ours.onnx").embed(list(images.numpy()))
    np.testing.assert_allclose(vectors, expected_vectors(state, images), atol=2e-5)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    state = osnet("ain")
    for content, message in (
        ({k: v for k, v in state.items() if not k.startswith("conv4.0.IN.")}, "missing keys: conv4.0.conv3.bn.weight"),
        ({**state, "extra": torch.zeros(1)}, "unknown keys: extra"),
        ({**osnet("plain"), "conv2.2.0.extra": torch.zeros(1)}, "unknown keys: conv2.2.0.extra"),
        ({"conv2.0.gate.fc1.weight": torch.zeros(1)}, "not those of an OSNet; missing keys: conv1.conv.weight"),
        ({**state, "fc.0.weight": torch.zeros(())}, r"fc.0.weight has the shape \[\]"),
        ({**state, "fc.0.weight": torch.zeros(70_000, 1)}, "1 to 4,096 channels can be imported"),
        ({**state, "conv2.0.conv2a.bn.weight": torch.zeros(1)}, "unknown keys: conv2.0.conv2a.bn.weight"),
    ):
        torch.save(content, tmp_path / "theirs.pt")
        with pytest.raises(InputError, match=message) as caught:
            import_for_inference(tmp_path / "theirs.pt", tmp_path / "ours.onnx", size=SIZE)
        assert "\n" not in str(caught.value)
    torch.save(state, tmp_path / "theirs.pt")
    with pytest.raises(InputError, match="it has no neck; take the feature before it"):
        import_for_inference(tmp_path / "theirs.pt", tmp_path / "ours.onnx", size=SIZE, feature="after")
