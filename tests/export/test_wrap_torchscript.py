"""`bot wrap` of TorchScript, scripted and traced, against the same network in PyTorch."""

from __future__ import annotations

import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers.commands import run_bot
from torch import Tensor, nn

from bot_deploy import open_embedder
from bot_deploy.artifacts import read_contract
from bot_deploy.errors import InputError, RunError
from bot_deploy.export.wrap import wrap_model
from bot_deploy.export.wrap_torchscript import without_deprecations

SIZE, DIM = (32, 16), 12
CROPS = np.random.default_rng(3).integers(0, 256, (5, *SIZE, 3), dtype=np.uint8)
MEAN, STD = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)


class Network(nn.Module):
    """Crops [N, 3, H, W] to [N, DIM]; `fixed` says how the number of images stands in its code, if it does."""

    def __init__(self, fixed: str = "") -> None:
        super().__init__()
        self.fixed = fixed
        self.start = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.end = nn.Linear(8 * 4, DIM)
        self.dropout = nn.Dropout(0.5)  # must not run
        self.token = nn.Parameter(torch.randn(1, DIM))
        for value in (self.start[1].running_mean, self.start[1].bias):
            nn.init.normal_(value)

    def forward(self, images: Tensor) -> Tensor:
        features = nn.functional.adaptive_avg_pool2d(self.start(images), (4, 1))
        rows = features.reshape(1, 32) if self.fixed == "reshape" else features.flatten(1)
        vectors = self.dropout(self.end(rows))
        return torch.cat([vectors, self.token], 1) if self.fixed == "token" else vectors


class Branching(nn.Module):
    """A trace would keep one of the two ways; which one is taken depends on all images of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def forward(self, images: Tensor) -> Tensor:
        vectors: Tensor = self.network(images)
        if bool(images.mean() > 0):
            vectors = -vectors
        return vectors


class Flattened(nn.Module):
    """Takes crops of SIZE and of no other."""

    def __init__(self) -> None:
        super().__init__()
        self.end = nn.Linear(3 * SIZE[0] * SIZE[1], DIM)

    def forward(self, images: Tensor) -> Tensor:
        return self.end(images.flatten(1))  # type: ignore[no-any-return]


class Answers(nn.Module):
    """Several outputs, or one that is no tensor."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.network = Network()

    def forward(self, images: Tensor) -> Any:
        vectors = self.network(images)
        return {"vectors": vectors} if self.kind == "dict" else (vectors.relu(), vectors)


class Pair(nn.Module):
    def forward(self, images: Tensor, cameras: Tensor) -> Tensor:
        return images.mean((2, 3)) + cameras


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def stored(network: nn.Module, path: Path, *, traced: bool = True) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls all of it deprecated
        network.eval()
        example = (torch.zeros(1, 3, *SIZE), *[torch.zeros(1, 3)] * isinstance(network, Pair))
        made = torch.jit.trace(network, example, strict=False) if traced else torch.jit.script(network)
        torch.jit.save(made, str(path))
    return path


def expected(network: nn.Module, images: Tensor) -> Any:
    with torch.inference_mode():
        rows = [network.eval()(image[None]) for image in images]
    return nn.functional.normalize(torch.cat(rows)).numpy()


@pytest.mark.parametrize(
    ("network", "traced", "suffix", "free"),
    [
        (Network(), True, ".torchscript", True),
        (Network(), False, ".pt", True),
        (Branching(), False, ".torchscript", False),
        (Network("reshape"), True, ".torchscript", True),
        (Network("token"), True, ".torchscript", False),
    ],
    ids=["traced", "scripted", "branches on the whole batch", "reshape to one image", "works on one image alone"],
)
def test_the_model_file_embeds_as_the_script_does(
    network: nn.Module, traced: bool, suffix: str, free: bool, people: Path, tmp_path: Path
) -> None:
    source = stored(network, tmp_path / f"theirs{suffix}", traced=traced)
    how: dict[str, Any] = {"size": SIZE, "color": "BGR", "pixel_range": "0-1", "mean": MEAN, "std": STD}
    wrapped = wrap_model(source, tmp_path / "ours.onnx", data=people, **how)
    assert wrapped.parity
    assert not wrapped.rejected
    assert wrapped.parity.min_cosine > 0.99999
    contract = read_contract(wrapped.path)
    assert (contract.size, contract.precision, contract.arch) == (SIZE, "fp32", "wrapped:theirs")
    assert bool(onnx.load(wrapped.path).graph.input[0].type.tensor_type.shape.dim[0].dim_param) == free
    pixels = (torch.from_numpy(CROPS[..., ::-1] / 255) - torch.tensor(MEAN)) / torch.tensor(STD)
    wanted = expected(network, pixels.float().permute(0, 3, 1, 2))
    for count in (1, 2, 5):
        actual = open_embedder(wrapped.path).run(CROPS[:count])
        assert np.abs(actual - wanted[:count]).max() < 1e-5, count
    assert (wanted @ wanted.T - np.eye(5)).max() < 0.99999  # the crops have different embeddings


def test_half_floats(people: Path, tmp_path: Path) -> None:
    network = Network()
    images = torch.from_numpy(CROPS).permute(0, 3, 1, 2) / 255
    wanted = expected(network, images)
    source = stored(network, tmp_path / "whole.pt", traced=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.load(str(source)).half(), str(tmp_path / "half.pt"))
    wrapped = wrap_model(tmp_path / "half.pt", tmp_path / "ours.onnx", data=people, size=SIZE, pixel_range="0-1")
    assert not wrapped.rejected
    assert read_contract(wrapped.path).precision == "fp16"
    assert np.abs(open_embedder(wrapped.path).run(CROPS) - wanted).max() < 5e-3


def test_one_of_several_outputs(people: Path, tmp_path: Path) -> None:
    network = Answers("tuple")
    source = stored(network, tmp_path / "theirs.pt")
    with pytest.raises(InputError, match=r"has 2 outputs \(output_0, output_1\); name the one with the embeddings"):
        wrap_model(source, tmp_path / "ours.onnx", data=people, size=SIZE)
    wrapped = wrap_model(
        source, tmp_path / "ours.onnx", data=people, size=SIZE, pixel_range="0-1", output_name="output_1"
    )
    images = torch.from_numpy(CROPS).permute(0, 3, 1, 2) / 255
    assert np.abs(open_embedder(wrapped.path).run(CROPS) - expected(network.network, images)).max() < 1e-5


def test_a_wrong_size_is_named(people: Path, tmp_path: Path) -> None:
    source = stored(Flattened(), tmp_path / "theirs.pt")
    with pytest.raises(InputError, match="takes crops of any size; name the one it was trained on"):
        wrap_model(source, tmp_path / "ours.onnx", data=people)
    with pytest.raises(InputError, match="cannot run on crops of 64x32; name the size it was trained on") as caught:
        wrap_model(source, tmp_path / "ours.onnx", data=people, size=(64, 32))
    assert caught.value.parameter == "size"
    assert "\n" not in str(caught.value)
    assert not wrap_model(source, tmp_path / "ours.onnx", data=people, size=SIZE).rejected


def test_other_files_are_refused(people: Path, tmp_path: Path) -> None:
    whole = stored(Network(), tmp_path / "whole.pt")
    broken, text, marked = (tmp_path / f"{name}.torchscript" for name in ("broken", "text", "marked"))
    broken.write_bytes(whole.read_bytes()[:-300])
    text.write_text("no archive")
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(marked, "w") as new:  # all but its code
        for name in old.namelist():
            new.writestr(name, b"" if "/code/" in name else old.read(name))
    torch.save(Network().state_dict(), tmp_path / "weights.pt")
    for source, message in (
        (broken, "not a TorchScript file, or damaged"),
        (text, "not a TorchScript file, or damaged"),
        (marked, "not a usable TorchScript file"),
        (tmp_path / "weights.pt", "holds weights without their network.*`bot import`"),
        (stored(Pair(), tmp_path / "pair.pt"), r"has 2 inputs \(images, cameras\)"),
        (stored(Answers("dict"), tmp_path / "dict.pt"), "its output is a dict"),
        (tmp_path / "none.pt", "no such model file"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            wrap_model(source, tmp_path / "ours.onnx", data=people, size=SIZE)
        assert str(caught.value).startswith(f"{source}: ")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"the model file of whole\.pt ends in \.onnx"):
        wrap_model(whole, tmp_path / "ours.pt", data=people, size=SIZE)
    assert not (tmp_path / "ours.onnx").exists()


def test_without_pytorch_the_remedy_is_named(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stored(Network(), tmp_path / "theirs.pt")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(RunError, match=r"torch is not installed; pip install 'bot-deploy\[train\]'"):
        wrap_model(source, tmp_path / "ours.onnx", data=people, size=SIZE)


def test_only_warnings_of_the_exporter_are_dropped() -> None:
    with pytest.warns(FutureWarning, match="of another library"), without_deprecations():
        warnings.warn("of another library", FutureWarning, stacklevel=1)


def test_the_command(people: Path, tmp_path: Path) -> None:
    source = stored(Network(), tmp_path / "theirs.torchscript")
    done = run_bot("wrap", source, "--size", "32x16", "--data", people, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "theirs.torchscript: TorchScript of the class Network" in done.stderr
    assert "arning" not in done.stderr
    assert "deprecated" not in done.stderr
    (made,) = (tmp_path / "runs").rglob("model.onnx")
    assert read_contract(made).dim == DIM
