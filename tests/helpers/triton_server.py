"""A server on this machine that speaks Triton's protocol over HTTP, with a real model behind it.

Written from https://github.com/kserve/open-inference-protocol and from docs/protocol of Triton's repository, apart from
the client: paths, JSON, and tensors in binary form.
"""

from __future__ import annotations

import base64
import json
import re
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, text_format
from helpers.running_server import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TYPES = {"TYPE_UINT8": "UINT8", "TYPE_FP32": "FP32"}
HEADER = "Inference-Header-Content-Length"


def triton_model_config() -> Any:
    """The message ModelConfig with the fields of Triton's model_config.proto that a configuration of ours may have."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    types = file.enum_type.add(name="DataType")
    for name, number in {"TYPE_INVALID": 0, "TYPE_UINT8": 2, "TYPE_FP32": 11}.items():
        types.value.add(name=name, number=number)
    messages = {
        "ModelInput": [("name", 1, "STRING"), ("data_type", 2, ".inference.DataType"), ("dims", 4, "INT64[]")],
        "ModelOutput": [("name", 1, "STRING"), ("data_type", 2, ".inference.DataType"), ("dims", 3, "INT64[]")],
        "ModelDynamicBatching": [("preferred_batch_size", 1, "INT32[]"), ("max_queue_delay_microseconds", 2, "UINT64")],
        "ModelConfig": [
            ("name", 1, "STRING"),
            ("platform", 2, "STRING"),
            ("max_batch_size", 4, "INT32"),
            ("input", 5, ".inference.ModelInput[]"),
            ("output", 6, ".inference.ModelOutput[]"),
            ("dynamic_batching", 11, ".inference.ModelDynamicBatching"),
            ("parameters", 14, ".inference.ModelConfig.ParametersEntry[]"),
        ],
        "ModelParameter": [("string_value", 1, "STRING")],
    }
    for message, fields in messages.items():
        described = file.message_type.add(name=message)
        for name, number, kind in fields:
            label = field.LABEL_REPEATED if kind.endswith("[]") else field.LABEL_OPTIONAL
            added = described.field.add(name=name, number=number, label=label)
            single = kind.removesuffix("[]")
            if single.startswith("."):
                added.type_name = single
                added.type = field.TYPE_ENUM if single.endswith("DataType") else field.TYPE_MESSAGE
            else:
                added.type = getattr(field, f"TYPE_{single}")
    (config,) = (message for message in file.message_type if message.name == "ModelConfig")
    entry = config.nested_type.add(name="ParametersEntry", options=descriptor_pb2.MessageOptions(map_entry=True))
    entry.field.add(name="key", number=1, label=field.LABEL_OPTIONAL, type=field.TYPE_STRING)
    entry.field.add(
        name="value",
        number=2,
        label=field.LABEL_OPTIONAL,
        type=field.TYPE_MESSAGE,
        type_name=".inference.ModelParameter",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


class TritonServer(ThreadingHTTPServer):
    """Serves the models of the repository `folder`; `compute` stands for the network of each.

    `fault` says what goes wrong: "silent" (no answer for long), "cut" (half an answer), "503", "json"
    (tensors as JSON), "shape" (vectors of another length), "html".
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, folder: Path, compute: Callable[[Any], Any], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.compute = compute
        self.fault = ""
        self.version = "1"
        self.user = ""  # user:password that is asked for
        self.batches: list[int] = []
        self.models: dict[str, Any] = {}
        for path in folder.glob("*/config.pbtxt"):
            parsed = text_format.Parse(path.read_text(encoding="utf-8"), triton_model_config()())
            self.models[path.parent.name] = json_format.MessageToDict(parsed, preserving_proto_field_name=True)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client may leave at any moment."""


class _Handler(BaseHTTPRequestHandler):
    server: TritonServer

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        server, fault = self.server, self.server.fault
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if fault == "silent":
            time.sleep(1)
            return
        expected = f"Basic {base64.b64encode(server.user.encode()).decode()}"
        if server.user and self.headers.get("Authorization") != expected:
            self._send(401, b"<html>")
        elif fault in {"503", "html"}:
            self._send(503 if fault == "503" else 200, b"<html>")
        else:
            self._answer_model(body)

    def _answer_model(self, body: bytes) -> None:
        server = self.server
        if self.path == "/v2":
            self._send(200, json.dumps({"name": "triton", "version": "0.0-test", "extensions": []}).encode())
        elif (found := re.fullmatch(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(\w+))?", self.path)) is None:
            self._send(404, b"")
        elif found[1] not in server.models or found[2] not in {None, server.version}:
            self._send(400, json.dumps({"error": f"Request for unknown model: '{found[1]}' is not found"}).encode())
        elif found[3] == "ready":
            self._send(200, b"")
        elif found[3] == "config":
            self._send(200, json.dumps(server.models[found[1]]).encode())
        elif found[3] == "infer":
            self._infer(server.models[found[1]], body)
        else:
            self._send(200, json.dumps(self._metadata(found[1])).encode())

    def _metadata(self, name: str) -> dict[str, Any]:
        config = self.server.models[name]

        def describe(tensor: dict[str, Any]) -> dict[str, Any]:
            shape = [-1, *map(int, tensor["dims"])]  # the JSON of protobuf has int64 as text
            return {"name": tensor["name"], "datatype": TYPES[tensor["data_type"]], "shape": shape}

        return {
            "name": name,
            "versions": [self.server.version],
            "platform": config["platform"],
            "inputs": [describe(one) for one in config["input"]],
            "outputs": [describe(one) for one in config["output"]],
        }

    def _infer(self, config: dict[str, Any], body: bytes) -> None:
        length = int(self.headers[HEADER])
        asked = json.loads(body[:length])
        (tensor,), (wanted,) = asked["inputs"], asked["outputs"]
        assert (tensor["name"], tensor["datatype"], wanted["name"]) == ("images", "UINT8", "embeddings")
        assert wanted["parameters"] == {"binary_data": True}
        assert tensor["parameters"] == {"binary_data_size": len(body) - length}
        pixels = np.frombuffer(body[length:], np.uint8).reshape(tensor["shape"])
        if len(pixels) > config["max_batch_size"] or list(pixels.shape[1:]) != [
            int(dim) for dim in config["input"][0]["dims"]
        ]:
            self._send(400, b'{"error": "unexpected shape for input"}')
            return
        self.server.batches.append(len(pixels))
        vectors = np.asarray(self.server.compute(pixels), np.float32)
        if self.server.fault == "shape":
            vectors = np.tile(vectors, 2)
        output: dict[str, Any] = {"name": "embeddings", "datatype": "FP32", "shape": vectors.shape}
        answer = {"model_name": config["name"], "model_version": self.server.version, "outputs": [output]}
        if self.server.fault == "json":
            output["data"] = vectors.ravel().tolist()
            self._send(200, json.dumps(answer).encode())
            return
        data = vectors.astype("<f4").tobytes()
        output["parameters"] = {"binary_data_size": len(data)}
        head = json.dumps(answer).encode()
        self._send(200, head + data, {HEADER: str(len(head)), "Content-Type": "application/octet-stream"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.server.fault == "cut" else body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature of http.server
        """Nothing on stderr."""


@contextmanager
def serve_triton(folder: Path, compute: Callable[[Any], Any], port: int = 0) -> Iterator[TritonServer]:
    """A running server of the repository `folder`."""
    with running(TritonServer(folder, compute, port)) as server:
        yield server
