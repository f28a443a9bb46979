"""A model on a Triton server, asked over HTTP.

The protocol is KServe's, version 2 (https://github.com/kserve/open-inference-protocol), with Triton's extensions for
binary tensors and for the configuration of a model (docs/protocol in https://github.com/triton-inference-server/server).
The configuration that `bot export --for triton` writes holds the contract, so no model file is needed here.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

import msgspec
import numpy as np

from bot_deploy.addresses import mask_address
from bot_deploy.artifacts.contract import INPUT_NAME, METADATA_KEY, OUTPUT_NAME, from_json
from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError, RunError, UnavailableError, on_one_line

from .shapes import check_shapes

if TYPE_CHECKING:
    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels

# triton://USER:PASSWORD@HOST:PORT/MODEL; user and password in URL quotes, for a proxy in front of the server.
ADDRESS = re.compile(r"triton://(?:([^/@:]*):([^/@]*)@)?([^/@:]+|\[[^/@\]]+\])(?::(\d{1,5}))?/([\w.-]+)/?")
HTTP_PORT = 8000  # Triton's own choice
CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S = 10, 30
MAX_ANSWER_BYTES = 1 << 28
BATCH_SIZE = 32  # images of a request, where the server takes as many
HEADER_LENGTH = "Inference-Header-Content-Length"  # of the JSON in front of binary tensors
REMEDY = "start Triton with the folder triton/ that `bot export --for triton` writes as its model repository"
TYPES = {INPUT_NAME: "UINT8", OUTPUT_NAME: "FP32"}

T = TypeVar("T")


class _Server(msgspec.Struct):
    version: str


class _Tensor(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]


class _Metadata(msgspec.Struct):
    inputs: list[_Tensor]
    outputs: list[_Tensor]
    versions: list[str]
    platform: str = ""


class _Parameter(msgspec.Struct):
    string_value: str = ""


class _Config(msgspec.Struct):
    max_batch_size: int = 0
    parameters: dict[str, _Parameter] = {}


class _Answer(msgspec.Struct):
    outputs: list[_Tensor]


class _Refusal(msgspec.Struct):
    error: str


def open_model(address: str) -> Embedder:
    """The model at `address`, triton://HOST:PORT/MODEL; it must be ready.

    Raises:
        InputError: no such address or model; or its inputs and outputs are not those of its contract.
        UnavailableError: the server does not answer. Each batch may raise it again.
    """
    match = ADDRESS.fullmatch(address)
    if not match:
        raise InputError(f"{mask_address(address)}: write triton://host:{HTTP_PORT}/reid", parameter="model")
    user, password, host, port, name = match.groups()
    basic = f"{unquote(user)}:{unquote(password)}" if user is not None else None
    server = _Connection(mask_address(address), host.strip("[]"), int(port or HTTP_PORT), basic)
    version = server.get("/v2", _Server).version
    metadata = server.get(f"/v2/models/{name}", _Metadata)
    if not metadata.versions:
        raise InputError(f"{server.shown}: no version of the model is ready; {REMEDY}")
    # Another version would be another model: its vectors are not those of the gallery.
    place = f"/v2/models/{name}/versions/{max(metadata.versions, key=_version_number)}"
    server.get(f"{place}/ready")
    config = server.get(f"{place}/config", _Config)
    if METADATA_KEY not in config.parameters:
        raise InputError(f"{server.shown}: its configuration has no contract of bot_deploy; {REMEDY}")
    contract = from_json(config.parameters[METADATA_KEY].string_value, server.shown)
    tensors = [*metadata.inputs, *metadata.outputs]
    check_shapes({one.name: tuple(one.shape) for one in tensors}, contract, server.shown, REMEDY)
    if {one.name: one.datatype for one in tensors} != TYPES:
        raise InputError(f"{server.shown}: its inputs and outputs have other types than {TYPES}; {REMEDY}")
    largest = max(1, config.max_batch_size)

    def run(batch: Pixels) -> Vectors:
        parts = [batch[start : start + largest] for start in range(0, len(batch), largest)]
        return np.concatenate([server.infer(f"{place}/infer", part) for part in parts])

    backend = f"Triton {version} {metadata.platform}".strip()
    return Embedder(contract, backend, run, min(BATCH_SIZE, largest))


def _version_number(version: str) -> int:
    return int(version) if version.isdecimal() else 0


@dataclass(frozen=True)
class _Connection:
    """Asks one server; each request has a connection of its own, so that any thread may ask, and none is ever stale."""

    shown: str  # the address in messages
    host: str
    port: int
    basic: str | None = field(repr=False)  # user:password

    def get(self, path: str, kind: type[T] | None = None) -> T:
        """The JSON at `path`, as a `kind`; without one, only the status of the answer is looked at.

        Raises:
            InputError, UnavailableError: see `open_model`.
        """
        status, _, body = self._ask("GET", path)
        if status in {401, 403}:
            raise InputError(
                f"{self.shown}: refused (HTTP {status}); write triton://USER:PASSWORD@host/name", parameter="model"
            )
        if status >= 500:  # noqa: PLR2004
            raise UnavailableError(f"{self.shown}: {_reason(status, body)}; try again later")
        if status != 200:  # noqa: PLR2004
            raise InputError(f"{self.shown}: no model that is ready ({_reason(status, body)}); {REMEDY}")
        return self._decode(body, kind) if kind else None  # type: ignore[return-value]

    def infer(self, path: str, batch: Pixels) -> Vectors:
        """The output [N, D] of the model for `batch` uint8 [N, H, W, 3].

        Raises:
            UnavailableError: the server does not answer, or not with embeddings.
            RunError: its answer is not one of this protocol.
        """
        tensor = {
            "name": INPUT_NAME,
            "datatype": TYPES[INPUT_NAME],
            "shape": batch.shape,
            "parameters": {"binary_data_size": batch.nbytes},
        }
        outputs = [{"name": OUTPUT_NAME, "parameters": {"binary_data": True}}]
        head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
        headers = {HEADER_LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}
        status, answered, body = self._ask("POST", path, head + batch.tobytes(), headers)
        if status != 200:  # noqa: PLR2004
            raise UnavailableError(
                f"{self.shown}: the model does not embed ({_reason(status, body)}); see the log of Triton, and start "
                "this program again if it has loaded another version"
            )
        try:
            length = int(answered[HEADER_LENGTH] or "")
            (output,) = self._decode(body[:length], _Answer).outputs
            vectors = np.frombuffer(body[length:], "<f4").reshape(output.shape)
        except ValueError:
            raise RunError(f"{self.shown}: the answer is not a tensor in binary form, as Triton sends it") from None
        return vectors.astype(np.float32)

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        headers = dict(headers or {})
        if self.basic is not None:
            headers["Authorization"] = f"Basic {base64.b64encode(self.basic.encode()).decode()}"
        connection = http.client.HTTPConnection(self.host, self.port, timeout=CONNECT_TIMEOUT_S)
        try:
            connection.connect()
            connection.sock.settimeout(ANSWER_TIMEOUT_S)
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            answer = response.read(MAX_ANSWER_BYTES)
            if response.length:  # the rest; Python raises this itself only where it reads without a limit
                raise http.client.IncompleteRead(answer, response.length)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or on_one_line(error)
            raise UnavailableError(
                f"{self.shown}: no answer ({reason}); is Triton running there, and is this its port for HTTP?",
                parameter="model",
            ) from None
        finally:
            connection.close()
        return response.status, response.headers, answer

    def _decode(self, body: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.MsgspecError as error:
            raise RunError(f"{self.shown}: does not answer as Triton does ({on_one_line(error)})") from None


def _reason(status: int, body: bytes) -> Any:
    """Why the server refuses, in its own words or as the number of HTTP."""
    try:
        return on_one_line(ValueError(msgspec.json.decode(body, type=_Refusal).error))
    except msgspec.MsgspecError:
        return f"HTTP {status}"
