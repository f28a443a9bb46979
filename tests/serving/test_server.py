"""`bot serve` as a process, asked over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import io
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
import pytest
from helpers.bot_server import KEY, Server, serving
from helpers.commands import run_bot
from PIL import Image

from bot_deploy import open_embedder
from bot_deploy.footage.videos import FIRST_NAMED_CAMERA

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")


@pytest.fixture(scope="module")
def server(onnx_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    gallery = tmp_path_factory.mktemp("serve") / "people.gallery"
    with serving(onnx_file, gallery, "--api-key", "env:SERVE_KEY", "--max-upload", "1") as started:
        yield started


def test_a_request_needs_the_key(server: Server, pictures: list[Path]) -> None:
    for method, path in (
        ("POST", "/embed"),
        ("POST", "/match"),
        ("GET", "/people"),
        ("POST", "/people"),
        ("PATCH", "/people/a?new_name=b"),
        ("DELETE", "/people/a"),
        ("GET", "/pictures/a"),
        ("GET", "/metrics"),
    ):
        for key in (None, "another", KEY[:-1], "ключ".encode().decode("latin-1")):
            assert server.ask(method, path, pictures[0].read_bytes(), key).status == 401, path
    assert server.ask("GET", "/health", key=None).json["status"] == "ok"


def test_embeddings_are_those_of_the_model(server: Server, onnx_file: Path, pictures: list[Path]) -> None:
    embedder = open_embedder(onnx_file)
    answer = server.ask("POST", "/embed", pictures[0].read_bytes())
    assert answer.status == 200
    np.testing.assert_allclose(answer.json["embedding"], embedder.embed(pictures[0])[0], atol=1e-6)
    assert (answer.json["dim"], answer.json["embedding_space"]) == (512, embedder.contract.embedding_space)


def test_many_at_once_share_batches_and_get_their_own_answers(
    server: Server, onnx_file: Path, pictures: list[Path]
) -> None:
    expected = open_embedder(onnx_file).embed(pictures)
    before = counters(server)
    asked = [index % len(pictures) for index in range(120)]
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda index: server.ask("POST", "/embed", pictures[index].read_bytes()), asked))
    assert {answer.status for answer in answers} == {200}
    np.testing.assert_allclose([answer.json["embedding"] for answer in answers], expected[asked], atol=2e-6)
    after = counters(server)
    assert after["bot_images_total"] - before["bot_images_total"] == 120
    assert after["bot_batches_total"] - before["bot_batches_total"] < 120
    embeds = 'bot_requests_total{method="POST",route="/embed",status="200"}'
    assert after[embeds] - before[embeds] == 120
    assert after["bot_request_seconds_count"] == after['bot_request_seconds_bucket{le="+Inf"}']


def counters(server: Server) -> dict[str, float]:
    lines = server.ask("GET", "/metrics").body.decode().splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


def test_people_are_enrolled_found_renamed_and_forgotten(server: Server, pictures: list[Path]) -> None:
    first, second = pictures[0].read_bytes(), pictures[2].read_bytes()
    assert server.ask("POST", "/people?name=Ada", first).json == {"name": "Ada"}
    assert server.ask("POST", f"/people?name={quote('Zoë Ω')}", second).status == 201
    stranger = server.ask("POST", "/people", pictures[4].read_bytes()).json["name"]
    assert stranger == "person-1"
    people = {person["name"]: person["images"] for person in server.ask("GET", "/people").json["people"]}
    assert people == {"Ada": 1, "Zoë Ω": 1, stranger: 1}
    found = server.ask("POST", "/match?top=2", first).json
    assert [match["rank"] for match in found["matches"]] == [1, 2]
    best = found["matches"][0]
    assert (best["identity"], best["score"]) == ("Ada", pytest.approx(1, abs=1e-3))
    assert found["people"][0]["name"] == "Ada"
    assert found["verdict"]["decision"] == "uncalibrated"
    thumbnail = server.ask("GET", f"/pictures/{quote(best['path'])}")
    assert thumbnail.headers["content-type"] == "image/jpeg"
    with Image.open(pictures[0]) as original:
        scale = min(1, 256 / original.height)
        assert Image.open(io.BytesIO(thumbnail.body)).size == (
            int(original.width * scale),
            int(original.height * scale),
        )

    assert server.ask("PATCH", f"/people/Ada?new_name={quote('Zoë Ω')}").status == 409
    assert server.ask("PATCH", "/people/Nobody?new_name=Somebody").status == 404
    assert server.ask("PATCH", "/people/Ada?new_name=Grace").json == {"name": "Grace", "images": 1}
    assert server.ask("POST", "/match", first).json["people"][0]["name"] == "Grace"
    forgotten = {"name": "Grace", "images": 1, "appearances": 0, "left_file_count": 0}
    assert server.ask("DELETE", "/people/Grace").json == forgotten
    assert server.ask("DELETE", "/people/Grace").status == 404
    assert server.ask("POST", "/people?name=Eve&camera=cam3", first).status == 201
    filmed = server.ask("POST", "/match?top=1&camera=cam4", first).json["matches"][0]
    assert (filmed["identity"], filmed["camera"]) == ("Eve", 3)
    assert server.ask("DELETE", "/people/Eve").status == 200
    assert server.ask("POST", "/people?name=Eve&camera=lobby", first).status == 201
    number = server.ask("POST", "/match?top=1", first).json["matches"][0]["camera"]
    assert number >= FIRST_NAMED_CAMERA
    assert server.ask("PATCH", "/people/Eve?new_name=Mia").status == 200
    filmed = server.ask("POST", "/match?top=1&camera=lobby", first).json["matches"][0]
    assert (filmed["identity"], filmed["camera"]) == ("Mia", number)
    assert server.ask("DELETE", "/people/Mia").status == 200
    assert "Grace" not in {person["name"] for person in server.ask("GET", "/people").json["people"]}
    assert server.ask("GET", f"/pictures/{quote(best['path'])}").status == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/embed", b"", 400, "the body of the request is empty"),
        ("POST", "/embed", b"no picture", 400, "not a JPEG, PNG, WebP"),
        ("POST", "/embed", bytes(1_000_001), 413, "more than 1000000 bytes"),
        ("POST", "/people?name=a%2Fb", None, 400, "leave out special characters"),
        ("POST", "/people?name=", None, 422, "name"),
        ("POST", "/match?top=0", None, 422, "top"),
        ("POST", f"/match?camera={'x' * 1000}", None, 422, "camera"),
        ("POST", "/match?camera=a%00b", None, 400, "visible characters"),
        ("GET", "/pictures/..%2F..%2Fetc%2Fpasswd", None, 404, "no such picture"),
        ("GET", "/nothing", None, 404, "Not Found"),
        ("PUT", "/embed", None, 405, "Method Not Allowed"),
        ("DELETE", f"/people/{'x' * 5000}", None, 422, "name: String should have at most 4096 characters"),
        ("GET", f"/pictures/{'x' * 5000}", None, 422, "path: String should have at most 4096 characters"),
    ],
)
def test_what_cannot_be_answered_is_explained(
    method: str, path: str, body: bytes | None, status: int, message: str, server: Server, pictures: list[Path]
) -> None:
    answer = server.ask(method, path, pictures[0].read_bytes() if body is None and method == "POST" else body)
    assert answer.status == status
    assert list(answer.json) == ["error"]
    assert message in answer.json["error"]


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/embed", "POST"), ("/people", "GET, POST"), ("/people/Ada", "DELETE, PATCH"), ("/docs", "GET")],
)
def test_another_method_is_told_those_of_the_path(path: str, methods: str, server: Server) -> None:
    answer = server.ask("PUT", path)
    assert (answer.status, answer.headers["allow"]) == (405, methods)


def test_the_description_and_the_pages(server: Server) -> None:
    api = server.ask("GET", "/openapi.json", key=None).json
    assert {path: set(methods) for path, methods in api["paths"].items()} == {
        "/embed": {"post"},
        "/match": {"post"},
        "/people": {"get", "post"},
        "/people/{name}": {"patch", "delete"},
        "/pictures/{path}": {"get"},
        "/health": {"get"},
        "/metrics": {"get"},
    }
    for path in ("/", "/docs"):
        page = server.ask("GET", path, key=None)
        assert page.status == 200
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert b"//" not in re.sub(rb"https?://www\.w3\.org/\S+", b"", page.body)  # nothing from elsewhere


def test_a_page_of_another_site_needs_a_key(onnx_file: Path, tmp_path: Path, pictures: list[Path]) -> None:
    """Without it, any page in the browser of the machine could enrol people."""
    with serving(onnx_file, tmp_path / "people.gallery") as server:
        for origin, status in (("https://example.org", 403), ("null", 403), (f"http://127.0.0.1:{server.port}", 201)):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            with contextlib.closing(connection):
                connection.request("POST", "/people", pictures[0].read_bytes(), {"Origin": origin})
                assert connection.getresponse().status == status


def test_a_signal_ends_it_when_everybody_is_answered(onnx_file: Path, tmp_path: Path, pictures: list[Path]) -> None:
    with serving(onnx_file, tmp_path / "people.gallery") as server, ThreadPoolExecutor(16) as pool:
        large = io.BytesIO()
        Image.fromarray(np.zeros((2000, 1000, 3), np.uint8)).save(large, "PNG")
        assert server.ask("GET", "/health").status == 200
        waiting = [pool.submit(server.ask, "POST", "/embed", large.getvalue(), None) for _ in range(16)]
        while counters(server)["bot_images_total"] < 1:
            time.sleep(0.02)
        assert server.stop() == 0
        statuses = []
        for answer in waiting:
            with contextlib.suppress(ConnectionError):  # it came after the signal
                statuses.append(answer.result().status)
        assert statuses
        assert set(statuses) == {200}
    assert server.lines[-1] == "ended\n"
    assert "Traceback" not in "".join(server.lines)


def test_kill_loses_nobody_who_was_enrolled(onnx_file: Path, tmp_path: Path, pictures: list[Path]) -> None:
    """Every person whose enrolment was answered is there after kill -9 under load."""
    gallery, enrolled = tmp_path / "people.gallery", []

    def enrol(number: int) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            answer = server.ask("POST", f"/people?name=P{number}", pictures[number % len(pictures)].read_bytes(), None)
            if answer.status == 201:
                enrolled.append(answer.json["name"])

    with serving(onnx_file, gallery) as server, ThreadPoolExecutor(8) as pool:
        work = [pool.submit(enrol, number) for number in range(400)]
        while len(enrolled) < 20:
            time.sleep(0.01)
        server.process.kill()
        for one in work:
            one.result()
    assert 20 <= len(enrolled) < 400
    with serving(onnx_file, gallery) as server:
        people = {person["name"] for person in server.ask("GET", "/people").json["people"]}
        assert set(enrolled) <= people
        name = enrolled[-1]
        number = int(name[1:])
        found = server.ask("POST", "/match", pictures[number % len(pictures)].read_bytes()).json["people"]
        assert found[0]["score"] == pytest.approx(1, abs=1e-3)


def test_a_port_that_is_taken_is_one_line(server: Server, onnx_file: Path, tmp_path: Path) -> None:
    done = run_bot("serve", "--model", onnx_file, "--port", server.port, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("cannot be listened on (Address already in use) (--port)")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_crops_is_no_gallery_of_a_service(people: Path, tmp_path: Path) -> None:
    """Nobody could be forgotten for good: the next start would index the files again."""
    done = run_bot("serve", "--gallery", people, cwd=tmp_path)
    assert done.returncode == 2
    assert "a folder of crops; `bot index` makes a gallery of it (--gallery)" in done.stderr
