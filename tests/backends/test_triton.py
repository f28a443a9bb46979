"""A model on a Triton server: a server of the tests, which speaks the protocol with a real model behind it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers.random_gallery import contract, project
from helpers.triton_server import TritonServer, serve_triton

from bot_deploy import open_embedder
from bot_deploy.artifacts.contract import Calibration
from bot_deploy.backends import triton
from bot_deploy.errors import BotError, InputError, RunError, UnavailableError
from bot_deploy.export.program_files import triton_config

# Its JSON has quotation marks, backslashes and characters that are not ASCII.
CALIBRATION = Calibration(
    data='a "b" \\ ü',
    genuine_pairs=1,
    impostor_pairs=1,
    target_false_accept_rate=0.001,
    threshold=0.5,
    reject_threshold=0.25,
    false_reject_rate=0.5,
    curve=((0.25, 0.5), (0.5, 0.001)),
)
CONTRACT = contract(calibration=CALIBRATION)
CROPS = np.random.default_rng(0).integers(0, 256, (11, *CONTRACT.size, 3), dtype=np.uint8)


def compute(pixels: np.ndarray) -> np.ndarray:
    return np.stack([project(crop) for crop in pixels])


def write_repository(folder: Path, text: str) -> Path:
    (folder / "reid").mkdir(parents=True, exist_ok=True)
    (folder / "reid" / "config.pbtxt").write_text(text)
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TritonServer]:
    folder = write_repository(tmp_path / "triton", triton_config(CONTRACT, "reid", "onnxruntime_onnx", 4))
    with serve_triton(folder, compute) as started:
        yield started


def address(server: TritonServer, user: str = "") -> str:
    return f"triton://{user}127.0.0.1:{server.server_port}/reid"


def test_embeddings_are_those_of_the_model_in_batches_that_the_server_takes(server: TritonServer) -> None:
    embedder = open_embedder(address(server))
    assert embedder.contract == CONTRACT
    assert embedder.backend == "Triton 0.0-test onnxruntime_onnx"
    assert embedder.batch_size == 4
    server.batches.clear()
    np.testing.assert_allclose(embedder.run(CROPS), compute(CROPS), atol=1e-6)
    assert server.batches == [4, 4, 3]
    np.testing.assert_array_equal(open_embedder(address(server), batch_size=11).embed(CROPS), embedder.run(CROPS))


def test_threads_get_their_own_answers(server: TritonServer) -> None:
    embedder = open_embedder(address(server))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: embedder.run(CROPS[index % 11][None])[0], range(44)))
    np.testing.assert_allclose(found, np.tile(compute(CROPS), (4, 1)), atol=1e-6)


def test_a_user_and_a_password_in_front_of_the_server(server: TritonServer) -> None:
    server.user = "me:p@ss/word"
    with pytest.raises(InputError, match="write triton://USER:PASSWORD@host/name") as caught:
        open_embedder(address(server))
    assert caught.value.parameter == "model"
    open_embedder(address(server, "me:p%40ss%2Fword@")).run(CROPS)
    with pytest.raises(InputError, match=re.escape("triton://***@127.0.0.1")) as caught:
        open_embedder(address(server, "me:S3CRET@"))
    assert "S3CRET" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "triton://",
        "triton:/host/reid",
        "triton://host",
        "triton://me:S3CRET@host",
        "triton://h:port/reid",
        "triton://h/a/b",
    ],
)
def test_no_such_address(text: str) -> None:
    with pytest.raises(InputError, match="write triton://host:8000/reid") as caught:
        triton.open_model(text)
    assert "S3CRET" not in str(caught.value)


def test_the_server_chooses_the_device(server: TritonServer) -> None:
    with pytest.raises(InputError, match="runs where its server runs it"):
        open_embedder(address(server), "cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("16, 8, 3", "32, 8, 3"), "its inputs and outputs are .*32, 8, 3"),
        (lambda text: text.replace("dims: [ 12 ]", "dims: [ 13 ]"), "its inputs and outputs are .*13"),
        (lambda text: text.replace("TYPE_UINT8", "TYPE_FP32"), "have other types than"),
        (lambda text: text.replace('"embeddings"', '"output"'), "its inputs and outputs are .*'output'"),
        (lambda text: text[: text.index("parameters")], "has no contract of bot_deploy"),
        (lambda text: text.replace("fingerprint", "finger"), "fingerprint"),
    ],
)
def test_another_model_is_refused(change: Callable[[str], str], message: str, tmp_path: Path) -> None:
    text = triton_config(CONTRACT, "reid", "onnxruntime_onnx", 4)
    assert change(text) != text
    with serve_triton(write_repository(tmp_path, change(text)), compute) as server:
        with pytest.raises(InputError, match=f"^{re.escape(address(server))}: .*{message}"):
            open_embedder(address(server))
        with pytest.raises(InputError, match=r"no model that is ready .*'other' is not found.*bot export --for triton"):
            open_embedder(address(server).replace("/reid", "/other"))


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("silent", UnavailableError, r"no answer \(.*\); is Triton running there"),
        ("cut", UnavailableError, "no answer"),
        ("503", UnavailableError, "HTTP 503; try again later|HTTP 503"),
        ("html", RunError, "does not answer as Triton does"),
        ("json", RunError, "not a tensor in binary form"),
        ("shape", RunError, "shape"),
    ],
)
def test_faults(
    fault: str, kind: type[BotError], message: str, server: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = open_embedder(address(server))
    server.fault = fault
    if fault == "silent":
        monkeypatch.setattr(triton, "ANSWER_TIMEOUT_S", 0.2)
    with pytest.raises(kind, match=message):
        open_embedder(address(server))
    if fault != "html":  # of which an answer with tensors is none either
        with pytest.raises(kind, match=message):
            embedder.run(CROPS)
    server.fault = ""
    monkeypatch.undo()
    embedder.run(CROPS)


def test_no_server_and_another_version(server: TritonServer) -> None:
    embedder = open_embedder(address(server))
    server.version = "2"
    with pytest.raises(UnavailableError, match="start this program again if it has loaded another version"):
        embedder.run(CROPS)
    server.shutdown()
    server.server_close()
    for work in (lambda: embedder.run(CROPS), lambda: open_embedder(address(server))):
        with pytest.raises(UnavailableError, match=r"no answer \(Connection refused\)"):
            work()
