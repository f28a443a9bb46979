"""A web server on this machine that serves files for `bot_deploy.models.fetch`, well or badly."""

from __future__ import annotations

import hashlib
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import numpy as np
import onnx
from helpers.running_server import running
from onnx import TensorProto, helper, numpy_helper

from bot_deploy.models.table import NamedModel, NetworkInput, RemoteFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE, DIM = (32, 16), 12
PROJECTION = np.random.default_rng(4).normal(size=(24, DIM)).astype(np.float32)


class ModelServer(ThreadingHTTPServer):
    """Serves `files`, in the way that `fault` says, and counts requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.fault = ""  # see `_Handler.do_GET`
        self.faults_left = 1_000_000  # requests that the fault meets
        self.requests: list[str] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A client may leave at any moment."""

    def network(self, name: str, **files: bytes) -> NamedModel:
        """A network of the table whose files are served here, by their names with "_" for "."."""
        remote = []
        for key, content in files.items():
            path = key.replace("_", ".")
            self.files[path] = content
            address = f"http://127.0.0.1:{self.server_port}/{path}"
            remote.append(RemoteFile(address, len(content), f"sha384:{hashlib.sha384(content).hexdigest()}"))
        return NamedModel(
            name=name,
            files=tuple(remote),
            authors="the tests",
            licence="MIT",
            data_terms="none",
            input=NetworkInput(*SIZE, "BGR", "0-1", (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)),
            dim=DIM,
        )


class _Handler(BaseHTTPRequestHandler):
    server: ModelServer

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        fault = self.server.fault if self.server.faults_left > 0 else ""
        self.server.faults_left -= bool(fault)
        content = self.server.files[self.path.rpartition("/")[2]]
        if fault.isdecimal():
            self.send_error(int(fault))
            return
        if fault == "redirect" and "/moved/" not in self.path:
            self.send_response(302)
            self.send_header("Location", f"/moved/{self.path.rpartition('/')[2]}")
            self.end_headers()
            return
        if fault == "wrong":
            content = bytes([content[0] ^ 1]) + content[1:]
        elif fault == "long":
            content *= 4
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        half = len(content) // 2
        self.wfile.write(content[:half])
        if fault == "cut":
            return
        if fault in {"stops", "slow"}:
            self.wfile.flush()
            time.sleep(2 if fault == "stops" else 0.5)
        self.wfile.write(content[half:])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature of http.server
        """Nothing on stderr."""


@contextmanager
def serve_models() -> Iterator[ModelServer]:
    """A running server."""
    with running(ModelServer()) as server:
        yield server


def write_foreign_model(path: Path, shape: tuple[int, ...] = (-1, DIM)) -> bytes:
    """A ReID network of another toolkit: means of cells, times PROJECTION; float32 [1, 3, 32, 16] in, `shape` out."""
    constants = {"projection": PROJECTION, "shape": np.array(shape, np.int64)}
    nodes = [
        helper.make_node("AveragePool", ["images"], ["cells"], kernel_shape=[4, 16], strides=[4, 16]),
        helper.make_node("Flatten", ["cells"], ["rows"], axis=1),
        helper.make_node("MatMul", ["rows", "projection"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["vectors"]),
    ]
    graph = helper.make_graph(
        nodes,
        "reid",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *SIZE])],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, [1, *shape[1:]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path.read_bytes()


def expected_vectors(crops: np.ndarray) -> np.ndarray:
    """What that network gives for RGB crops uint8 [N, 32, 16, 3], by the formula; unit vectors."""
    pixels = (crops[..., ::-1] / 255 - np.array([0.1, 0.5, 0.9])) / np.array([0.2, 0.3, 0.4])
    cells = pixels.reshape(len(crops), 8, 4, 16, 3).mean((2, 3)).transpose(0, 2, 1).reshape(len(crops), -1)
    vectors = cells @ PROJECTION.astype(np.float64)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
