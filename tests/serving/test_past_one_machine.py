"""`bot serve` with a gallery and a model on servers: Milvus Lite as a server, and one that speaks Triton's protocol."""

from __future__ import annotations

import io
import logging
import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers.asgi import ask
from helpers.footage_index import CROPS, write_footage_index
from helpers.random_gallery import CountingModel, contract, draw, needs_milvus, project
from helpers.triton_server import serve_triton
from PIL import Image

from bot_deploy import open_embedder, read_image
from bot_deploy.backends import triton
from bot_deploy.camera_means import NEW_CAMERA_PULL, CameraMeans, camera_means_of, stored_means
from bot_deploy.demos.enrolment import open_enrolment_gallery
from bot_deploy.embedder import Embedder
from bot_deploy.errors import UnavailableError
from bot_deploy.export.program_files import triton_config
from bot_deploy.gallery import open_index

pytest.importorskip("fastapi", reason="needs the extra serve")

from bot_deploy.serving.app import create_app
from bot_deploy.serving.service import Service

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def embedder() -> Embedder:
    return Embedder(contract(), "a projection", CountingModel())


@needs_milvus
def test_two_services_share_a_gallery_on_a_server_that_goes_and_comes_back(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    monkeypatch.chdir(tmp_path)
    pictures = [draw(tmp_path / f"{number}.png", number).read_bytes() for number in range(2)]
    server, database, port = start_server_in_thread(str(tmp_path / "data"))
    address = f"milvus://127.0.0.1:{port}/people"
    services = [Service(embedder, open_enrolment_gallery(address, embedder)) for _ in range(2)]
    first, second = (create_app(service, None, 10**6) for service in services)
    assert ask(first, "POST", "/people?name=Ada", pictures[0]) == (201, {"name": "Ada"})
    assert ask(second, "POST", "/people", pictures[1]) == (201, {"name": "person-1"})
    status, found = ask(second, "POST", "/match?top=1", pictures[0])
    assert (status, found["matches"][0]["identity"]) == (200, "Ada")

    server.stop(grace=0).wait()
    database.close()
    crops = sorted(tmp_path.rglob("people/**/*.png"))
    for method, path in (("POST", "/people?name=Bo"), ("GET", "/pictures/Ada/x")):
        status, answer = ask(first, method, path, pictures[0])
        assert (status, list(answer)) == (503, ["error"]), path
        assert "try again later" in answer["error"]
        assert str(port) not in answer["error"]
    assert sorted(tmp_path.rglob("people/**/*.png")) == crops  # nobody is half enrolled

    server, database, _ = start_server_in_thread(str(tmp_path / "data"), port=port)
    until = time.monotonic() + 30
    while (answer := ask(first, "GET", "/people"))[0] == 503 and time.monotonic() < until:
        time.sleep(0.1)
    assert [person["name"] for person in answer[1]["people"]] == ["Ada", "person-1"]
    # The pictures that the service saved go with the person; one that somebody put there stays.
    draw(tmp_path / "people" / "Ada" / "mine.png", 7)
    assert ask(second, "DELETE", "/people/Ada")[1]["left_file_count"] == 0
    assert [path.name for path in (tmp_path / "people" / "Ada").iterdir()] == ["mine.png"]
    for service in services:
        service.close()
    server.stop(grace=0).wait()
    database.close()
    assert "Traceback" not in capfd.readouterr().err
    assert logging.getLogger("pymilvus").level == logging.CRITICAL


def test_a_service_whose_triton_goes_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "triton" / "reid" / "config.pbtxt"
    config.parent.mkdir(parents=True)
    config.write_text(triton_config(contract(), "reid", "onnxruntime_onnx", 4))
    picture = draw(tmp_path / "ada.png", 0).read_bytes()
    model = CountingModel()
    with serve_triton(config.parents[1], model) as server:
        port = server.server_port
        embedder = open_embedder(f"triton://127.0.0.1:{port}/reid")
        service = Service(embedder, open_enrolment_gallery(str(tmp_path / "people.gallery"), embedder))
        app = create_app(service, None, 10**6)
        assert ask(app, "POST", "/people?name=Ada", picture) == (201, {"name": "Ada"})
        server.fault = "silent"
        monkeypatch.setattr(triton, "ANSWER_TIMEOUT_S", 0.2)
        started = time.monotonic()
        waiting = [service.embed(read_image(tmp_path / "ada.png")) for _ in range(8)]
        assert {type(one.exception()) for one in waiting} == {UnavailableError}
        assert time.monotonic() - started < 8 * triton.ANSWER_TIMEOUT_S  # a batch waits once, not each of its images
        monkeypatch.undo()
    status, answer = ask(app, "POST", "/people?name=Bo", picture)
    assert (status, "try again later" in answer["error"], str(port) in answer["error"]) == (503, True, False)
    assert ask(app, "GET", "/people") == (200, {"people": [{"name": "Ada", "images": 1}]})  # what needs no model
    assert ask(app, "GET", "/health")[0] == 200
    with serve_triton(config.parents[1], model, port):
        status, found = ask(app, "POST", "/match", picture)
        assert (status, found["matches"][0]["identity"]) == (200, "Ada")
    service.close()


def test_an_adapted_model_learns_a_camera_on_which_people_are_enrolled(tmp_path: Path) -> None:
    known = np.random.default_rng(0).normal(size=contract().dim).astype(np.float32) / 10
    means = CameraMeans(known, {1: known}, {1: 50})
    adapted = replace(contract(), camera_means=stored_means(means, 50))
    pictures = [draw(tmp_path / f"{number}.png", number).read_bytes() for number in range(2)]
    gallery = open_enrolment_gallery(str(tmp_path / "x.gallery"), Embedder(adapted, "a projection", CountingModel()))
    with closing(Service(Embedder(adapted, "a projection", CountingModel()), gallery)) as service:
        app = create_app(service, None, 10**6)

        def score(query: int) -> float:
            status, found = ask(app, "POST", "/match?top=1&camera=cam7", pictures[query])
            assert status == 200
            return float(found["matches"][0]["score"])

        assert ask(app, "POST", "/people?name=Ada&camera=cam7", pictures[0])[0] == 201
        stored = camera_means_of(adapted)
        assert stored
        overall = stored.overall
        vectors = [ask(app, "POST", "/embed", picture)[1]["embedding"] for picture in pictures]
        mean = overall + (vectors[0] - overall) / (NEW_CAMERA_PULL + 1)  # (n m + k M) / (n + k), with n = 1

        def centered(vector: list[float]) -> np.ndarray:
            rest = np.array(vector) - mean
            return rest / np.linalg.norm(rest)

        assert score(1) == pytest.approx(float(centered(vectors[1]) @ centered(vectors[0])), abs=2e-3)
        raw = [(np.array(vector) - overall) / np.linalg.norm(vector - overall) for vector in vectors]
        assert abs(score(1) - float(raw[0] @ raw[1])) > 5e-3  # as if the camera were not learned


def test_a_match_in_a_video_says_where_and_when(embedder: Embedder, tmp_path: Path) -> None:
    person = project(np.zeros((*embedder.contract.size, 3), np.uint8))
    write_footage_index(tmp_path / "shop.gallery", contract(), np.tile(person, (1, CROPS, 1)), cameras=("till",))
    stream = io.BytesIO()
    Image.new("RGB", embedder.contract.size[::-1]).save(stream, "PNG")
    with closing(Service(embedder, open_index(tmp_path / "shop.gallery", contract()))) as service:
        status, found = ask(create_app(service, None, 10**6), "POST", "/match", stream.getvalue())
        assert status == 200
        (match,) = found["matches"]
        assert match["score"] == pytest.approx(1, abs=1e-3)
        assert (match["camera_name"], match["from"], match["to"]) == ("till", 0.0, 9.0)
