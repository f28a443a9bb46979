"""Whether /openapi.json says what `bot serve` answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from helpers.asgi import ask
from helpers.bot_server import KEY, serving
from helpers.random_gallery import CountingModel, contract, draw

from bot_deploy import read_image
from bot_deploy.demos.enrolment import open_enrolment_gallery
from bot_deploy.embedder import Embedder

pytest.importorskip("fastapi", reason="needs the extra serve")

from bot_deploy.serving.app import create_app
from bot_deploy.serving.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastapi import FastAPI

PARAMETERS = {  # operation -> its parameters; the others have none
    ("post", "/match"): ["top", "camera"],
    ("post", "/people"): ["name", "camera"],
    ("patch", "/people/{name}"): ["name", "new_name"],
    ("delete", "/people/{name}"): ["name"],
    ("get", "/pictures/{path}"): ["path"],
}
ANSWERS = {  # operation -> status, type of the content, and name of the schema or the schema itself
    ("post", "/embed"): ("200", "application/json", "Embedded"),
    ("post", "/match"): ("200", "application/json", "Found"),
    ("get", "/people"): ("200", "application/json", "People"),
    ("post", "/people"): ("201", "application/json", "Enrolled"),
    ("patch", "/people/{name}"): ("200", "application/json", "KnownPerson"),
    ("delete", "/people/{name}"): ("200", "application/json", "ForgottenPerson"),
    ("get", "/pictures/{path}"): ("200", "image/jpeg", {"type": "string", "format": "binary"}),
    ("get", "/metrics"): ("200", "text/plain", {"type": "string"}),
    ("get", "/health"): ("200", "application/json", "Health"),
}
FAILURE_KEYS = ["error"]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    embedder = Embedder(contract(), "a projection", CountingModel())
    opened = Service(embedder, open_enrolment_gallery(str(tmp_path / "people.gallery"), embedder))
    yield opened
    opened.close()


@pytest.fixture
def app(service: Service) -> FastAPI:
    return create_app(service, None, 10**6)


def operations(app: FastAPI) -> dict[tuple[str, str], dict[str, Any]]:
    api = app.openapi()
    return {(method, path): one for path, methods in api["paths"].items() for method, one in methods.items()}


def test_successful_answers_have_a_type(app: FastAPI) -> None:
    described = operations(app)
    assert set(described) == set(ANSWERS)
    for operation, (status, content_type, schema) in ANSWERS.items():
        responses = described[operation]["responses"]
        assert [code for code in responses if int(code) < 400] == [status], operation
        expected = {"$ref": f"#/components/schemas/{schema}"} if isinstance(schema, str) else schema
        assert responses[status]["content"] == {content_type: {"schema": expected}}, operation


def test_every_failure_is_an_object_with_the_reason(app: FastAPI) -> None:
    assert "ValidationError" not in json.dumps(app.openapi())
    for operation, described in operations(app).items():
        failures = {code: answer for code, answer in described["responses"].items() if int(code) >= 400}
        for answer in failures.values():
            schema = answer["content"]["application/json"]["schema"]
            assert (schema["required"], list(schema["properties"])) == (FAILURE_KEYS, FAILURE_KEYS), operation
        assert [one["name"] for one in described.get("parameters", [])] == PARAMETERS.get(operation, []), operation
        assert ("422" in failures) == (operation in PARAMETERS), operation


def test_the_types_hide_nothing(app: FastAPI, service: Service, tmp_path: Path) -> None:
    """FastAPI leaves out what a type does not have."""
    schemas = app.openapi()["components"]["schemas"]
    picture = draw(tmp_path / "a.png", 1).read_bytes()
    assert ask(app, "POST", "/people?name=Ada&camera=cam3", picture) == (201, {"name": "Ada"})
    _, found = ask(app, "POST", "/match", picture)
    vector = service.embed(read_image(tmp_path / "a.png")).result()
    assert found == json.loads(json.dumps(service.match(vector, 10)))
    assert list(found) == list(schemas["Found"]["properties"])
    assert list(found["matches"][0]) == schemas["FoundImage"]["required"]
    assert list(found["people"][0]) == list(schemas["FoundPerson"]["properties"])
    assert list(found["verdict"]) == list(schemas["Decision"]["properties"])
    assert found["matches"][0]["camera"] == 3
    assert found["matches"][0]["score"] == pytest.approx(1, abs=1e-3)
    assert list(ask(app, "GET", "/health")[1]) == list(schemas["Health"]["properties"])


def test_only_a_service_with_a_key_asks_for_it(service: Service) -> None:
    for key, secured in ((None, set()), ("a key", set(ANSWERS) - {("get", "/health")})):
        described = operations(create_app(service, key, 10**6))
        assert {operation for operation, one in described.items() if "security" in one} == secured


@pytest.mark.slow
@pytest.mark.parametrize("key", [None, KEY])
def test_schemathesis_finds_nothing(key: str | None, onnx_file: Path, tmp_path: Path, pictures: list[Path]) -> None:
    """Requests made from the description, right and wrong ones: statuses, types of content, answers, methods, keys."""
    program = shutil.which("schemathesis")
    if program is None:
        pytest.skip("needs schemathesis on the PATH, as of `pipx install schemathesis`")
    options = ["--api-key", "env:SERVE_KEY"] if key else []
    with serving(onnx_file, tmp_path / "people.gallery", *options) as server:
        assert server.ask("POST", "/people?name=Ada", pictures[0].read_bytes()).status == 201
        # Random bytes fit the description of a picture, and are none.
        command = [
            *(program, "run", f"http://127.0.0.1:{server.port}/openapi.json", "--seed", "1", "--max-examples", "10"),
            *("--exclude-checks", "positive_data_acceptance", "--no-color"),
            *(["--header", f"X-API-Key:{key}"] if key else []),
        ]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stdout
        assert "Tested: 9" in done.stdout
        assert server.stop() == 0
    assert "Traceback" not in "".join(server.lines)
