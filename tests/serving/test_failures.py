"""What the service answers when it has too much to do, and when it fails."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from helpers.asgi import answer, ask
from helpers.random_gallery import CountingModel, contract, draw
from PIL import Image

from bot_deploy import images
from bot_deploy.demos.enrolment import open_enrolment_gallery
from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError
from bot_deploy.gallery import index_folder, open_or_create_index

pytest.importorskip("fastapi", reason="needs the extra serve")

from bot_deploy.serving import batcher, routes
from bot_deploy.serving.app import create_app
from bot_deploy.serving.service import Service

if TYPE_CHECKING:
    from pathlib import Path


class HeldModel(CountingModel):
    """A model that computes once it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.held, self.begun, self.go = False, threading.Event(), threading.Event()

    def __call__(self, batch: Any) -> Any:
        if self.held:
            self.begun.set()
            assert self.go.wait(30)
        return super().__call__(batch)


def open_service(model: Any, folder: Path) -> Service:
    embedder = Embedder(contract(), "a projection", model)
    return Service(embedder, open_enrolment_gallery(str(folder / "people.gallery"), embedder))


def test_too_many_pictures_are_refused_until_some_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "MAX_WAITING", 2)
    model = HeldModel()
    service = open_service(model, tmp_path)
    app, file = create_app(service, None, 10**6), draw(tmp_path / "a.png", 1)
    picture, pixels = file.read_bytes(), np.zeros((16, 8, 3), np.uint8)
    model.held = True
    answers = [service.embed(pixels)]
    assert model.begun.wait(30)
    answers += [service.embed(pixels), service.embed(pixels)]  # they wait for the first
    for path in ("/embed", "/match", "/people?name=Ada"):
        assert ask(app, "POST", path, picture) == (503, {"error": "2 images wait already; try again later"})
    assert ask(app, "GET", "/people") == (200, {"people": []})  # nobody is half enrolled
    model.go.set()
    vectors = [answer.result(30) for answer in answers]
    np.testing.assert_allclose([vector @ vectors[0] for vector in vectors], 1, atol=1e-6)
    assert ask(app, "POST", "/people?name=Ada", picture) == (201, {"name": "Ada"})
    service.close()


def test_a_fault_of_ours_is_answered_without_details(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("in a secret place")

    service = open_service(CountingModel(), tmp_path)
    monkeypatch.setattr(service, "people", fail)
    answer = ask(create_app(service, None, 10**6), "GET", "/people")
    assert answer == (500, {"error": "the work failed; the log of the service says why"})
    assert "in a secret place" in caplog.text
    service.close()


def test_an_upload_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "UPLOAD_TIMEOUT_S", 0.2)
    service = open_service(CountingModel(), tmp_path)
    app = create_app(service, None, 10**6)
    assert ask(app, "POST", "/embed", b"half", end="gone") == (400, {"error": "the upload was cut off"})
    status, answer = ask(app, "POST", "/embed", b"half", end="silent")
    assert (status, answer) == (408, {"error": "the picture did not come in 0.2 seconds"})
    service.close()


def test_without_a_key_only_names_of_this_machine_are_answered(tmp_path: Path) -> None:
    """The page of a site whose name leads to this machine asks under that name: DNS rebinding."""
    service = open_service(CountingModel(), tmp_path)
    app = create_app(service, None, 10**6, "box.shop")
    for host in ("localhost:8000", "127.0.0.1:8000", "[::1]:8000", "192.168.1.7", "Box.shop", socket.gethostname()):
        assert ask(app, "GET", "/people", host=host)[0] == 200, host
    for host in ("evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", ""):
        status, answer = ask(app, "GET", "/people", host=host)
        assert (status, answer["error"]) == (
            403,
            "without a key, the service answers only under an address or localhost",
        )
    service.close()


@pytest.mark.parametrize("key", ["schl\u00fcssel", "two\nlines", "\udc80"])
def test_a_key_that_no_header_can_hold(key: str, tmp_path: Path) -> None:
    service = open_service(CountingModel(), tmp_path)
    with pytest.raises(InputError, match="a key has letters, digits and signs of ASCII only"):
        create_app(service, key, 10**6)
    service.close()


def test_a_large_picture_is_kept_smaller(tmp_path: Path) -> None:
    """Its embedding is that of the whole picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 1200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    model = CountingModel()
    service = open_service(model, tmp_path)
    app = create_app(service, None, 10**8)
    data = (tmp_path / "large.png").read_bytes()
    vector = model(images.resize(pixels, (16, 8))[None])[0]
    np.testing.assert_allclose(ask(app, "POST", "/embed", data)[1]["embedding"], vector, atol=1e-6)
    assert ask(app, "POST", "/people?name=Ada", data) == (201, {"name": "Ada"})
    (kept,) = (tmp_path / "people.gallery").rglob("*.png")
    with Image.open(kept) as image:
        assert image.size == (614, 1024)
    assert ask(app, "POST", "/match", data)[1]["matches"][0]["score"] == pytest.approx(1, abs=1e-3)
    service.close()


def test_changes_that_wait_hold_up_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many enrolments as there are threads wait for one that is slow; a search is answered meanwhile."""
    service = open_service(CountingModel(), tmp_path)
    app, data = create_app(service, None, 10**6), draw(tmp_path / "a.png", 1).read_bytes()
    begun, go = threading.Event(), threading.Event()

    def enrol(*_: object) -> str:
        begun.set()
        assert go.wait(30)
        return "Ada"

    monkeypatch.setattr(service, "enrol", enrol)

    async def run() -> tuple[int, list[int]]:
        waiting = [asyncio.create_task(answer(app, "POST", "/people?name=Ada", data)) for _ in range(60)]
        await asyncio.to_thread(begun.wait, 30)
        await asyncio.sleep(0.2)
        status, _ = await asyncio.wait_for(answer(app, "POST", "/match", data), 20)
        go.set()
        return status, [status for status, _ in await asyncio.gather(*waiting)]

    assert asyncio.run(run()) == (200, [201] * 60)
    service.close()


def test_a_new_name_overwrites_no_file(tmp_path: Path) -> None:
    """A picture of somebody who was forgotten stays in a folder of the user; another one comes beside it."""
    model = CountingModel()
    embedder = Embedder(contract(), "a projection", model)
    for number, name in enumerate(("Ada", "Bob")):
        draw(tmp_path / "crops" / name / "1.png", number)
    ada, bob = ((tmp_path / "crops" / name / "1.png").read_bytes() for name in ("Ada", "Bob"))
    with open_or_create_index(tmp_path / "shop.gallery", contract(), tmp_path / "crops") as index:
        index_folder(index, tmp_path / "crops", embedder)
    service = Service(embedder, open_enrolment_gallery(str(tmp_path / "shop.gallery"), embedder))
    app = create_app(service, None, 10**6)
    assert ask(app, "DELETE", "/people/Ada")[1]["left_file_count"] == 1
    assert ask(app, "PATCH", "/people/Bob?new_name=Ada") == (200, {"name": "Ada", "images": 1})
    folder = tmp_path / "crops" / "Ada"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"1.png": ada, "1_2.png": bob}
    assert ask(app, "POST", "/match", bob)[1]["matches"][0]["path"] == "Ada/1_2.png"
    assert not (tmp_path / "crops" / "Bob").exists()
    # The copy of a try that was killed is found again.
    (tmp_path / "crops" / "Eve").mkdir()
    (tmp_path / "crops" / "Eve" / "1_2.png").write_bytes(bob)
    assert ask(app, "PATCH", "/people/Ada?new_name=Eve")[0] == 200
    assert [path.name for path in (tmp_path / "crops" / "Eve").iterdir()] == ["1_2.png"]
    service.close()
