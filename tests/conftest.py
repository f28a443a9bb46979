"""What several test modules need: real data where it is at hand, a few synthetic people, a tiny exported model."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bot_deploy.export.exported_model import ExportedModel
    from bot_deploy.export.steps import ExportContext

TESTS = Path(__file__).resolve().parent
SHARED = TESTS.parents[1] / "shared"
# Tests that import a runtime themselves send no reports either.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Every process that a test starts runs this checkout, whatever is installed, and finds tests/helpers.
os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), str(TESTS)])


@pytest.fixture(scope="session", autouse=True)
def _heed_interrupts() -> None:
    """A shell starts its background jobs with SIGINT ignored, and every process of the tests would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; not part of the project."""
    if not SHARED.is_dir():
        pytest.skip("needs the real data in ../shared, which is not part of the repository")
    return SHARED


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few synthetic people in Market-1501 layout."""
    from bot_deploy.synthetic import generate_dataset

    out = tmp_path_factory.mktemp("data") / "people"
    generate_dataset(out, train_identities=8, test_identities=6, images_per_camera=3, workers=1)
    return out


@pytest.fixture(scope="session")
def few_people(tmp_path_factory: pytest.TempPathFactory, people: Path) -> Path:
    """The first four people of each folder of `people`, for tests in which the number of crops only costs time."""
    out = tmp_path_factory.mktemp("few") / "people"
    for folder in people.iterdir():
        files = sorted(folder.glob("*.jpg"))
        first = sorted({file.name[:4] for file in files if file.name[:4].isdigit() and int(file.name[:4])})[:4]
        (out / folder.name).mkdir(parents=True)
        for file in files:
            if file.name[:4] in first:
                shutil.copy(file, out / folder.name)
    return out


@pytest.fixture(scope="session")
def checkpoint_file(tmp_path_factory: pytest.TempPathFactory, people: Path) -> Path:
    """An untrained ResNet-18 checkpoint for crops of 64x32 pixels: small, because most of the suite embeds with it."""
    import torch

    from bot_deploy.artifacts import checkpoint
    from bot_deploy.artifacts.checkpoint import contract_of
    from bot_deploy.model import ReID

    torch.manual_seed(0)
    model = ReID("resnet18", 8)
    path = tmp_path_factory.mktemp("run") / "model.pt"
    saved = checkpoint.Checkpoint(contract_of(model, 64, 32), model.state_dict(), 8, 1, "bnneck", (str(people),))
    checkpoint.save(saved, path)
    return path


@pytest.fixture(scope="session")
def context(checkpoint_file: Path, people: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportContext:
    """An export of `checkpoint_file` that is prepared."""
    from bot_deploy.datasets import open_dataset
    from bot_deploy.export.steps import prepare_export

    return prepare_export(checkpoint_file, tmp_path_factory.mktemp("export"), open_dataset(people))


@pytest.fixture(scope="session")
def exported(context: ExportContext) -> ExportedModel:
    """`checkpoint_file`, exported and verified."""
    from bot_deploy.export.steps import export_onnx

    exported = export_onnx(context)
    assert not exported.rejected
    return exported


@pytest.fixture(scope="session")
def onnx_file(exported: ExportedModel) -> Path:
    """The file of `exported`."""
    return exported.path


@pytest.fixture(autouse=True)
def _capture_the_librarys_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="bot_deploy")
