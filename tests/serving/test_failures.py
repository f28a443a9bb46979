"""What the service answers when it has too much to do, and when it fails."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from helpers.asgi import ask
from helpers.random_gallery import CountingModel, contract, draw

from bot_deploy.demos.enrolment import open_enrolment_gallery
from bot_deploy.embedder import Embedder

pytest.importorskip("fastapi", reason="needs the extra serve")

from bot_deploy.serving import batcher
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
