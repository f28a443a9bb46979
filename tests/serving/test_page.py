"""The page of `bot serve`, in headless Chromium."""

from __future__ import annotations

import json
import queue
import re
import shutil
import subprocess
import threading
from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from helpers.asgi import ask
from helpers.bot_server import serving
from helpers.random_gallery import CountingModel, contract, draw

from bot_deploy.demos.enrolment import open_enrolment_gallery
from bot_deploy.embedder import Embedder

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")

import uvicorn
from fastapi.responses import HTMLResponse, Response

from bot_deploy.serving.app import PAGE_POLICY, create_app
from bot_deploy.serving.server import listen
from bot_deploy.serving.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastapi import FastAPI, Request

QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
# Put below the page: it does what a person does, and tells the server what the page shows after each step.
PERSON = """<script>
  async function transfer(name) {
    const data = new DataTransfer();
    if (name) data.items.add(new File([await (await fetch("file/" + name)).blob()], name, { type: "image/png" }));
    return data;
  }

  async function tell(step, matches) {
    while (find("verdict").textContent === "Searching ..." || find("matches").children.length < matches)
      await new Promise((done) => setTimeout(done, 20));
    const images = [...document.querySelectorAll("li img")];
    await Promise.all([find("query"), ...images].map((image) => image.decode().catch(() => 0)));
    const seen = {
      step,
      verdict: find("verdict").textContent,
      query: find("query").hidden ? 0 : find("query").naturalHeight,
      matches: [...document.querySelectorAll("li")].map((item) => item.textContent),
      heights: images.map((image) => image.naturalHeight),
      over: drop.classList.contains("over"),
    };
    await fetch("told", { method: "POST", body: JSON.stringify(seen) });
  }

  async function choose(name) {
    find("file").files = (await transfer(name)).files;
    find("file").dispatchEvent(new Event("change"));
  }

  async function drag(kind, name) {
    const event = new DragEvent(kind, { dataTransfer: await transfer(name), bubbles: true, cancelable: true });
    drop.dispatchEvent(event);
    if (!event.defaultPrevented) throw new Error("the browser would open the file");
  }

  (async () => {
    await tell("open", 0);
    await choose("a.png");
    await tell("no key", 0);
    find("key").value = "a key";
    await choose("a.png");
    await tell("choose", 2);
    await drag("dragover", "b.png");
    await tell("over", 2);
    await drag("drop", "b.png");
    await tell("drop", 2);
    await drag("drop", "text.txt");
    await tell("no picture", 0);
    await drag("drop", "");
    await tell("no file", 0);
  })();
</script>"""


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """The address of `app`, which answers in a thread until the end of the block."""
    with listen("127.0.0.1", 0) as connection:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [connection]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{connection.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def find_chromium() -> str:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium on the PATH")
    return chromium


def test_the_page_shows_the_rank_list(onnx_file: Path, tmp_path: Path, pictures: list[Path]) -> None:
    chromium = find_chromium()
    with serving(onnx_file, tmp_path / "people.gallery") as server:
        for number, name in ((0, "Ada"), (2, "<b>Bo<b>".replace("<", "&").replace(">", ";"))):
            assert server.ask("POST", f"/people?name={quote(name)}", pictures[number].read_bytes()).status == 201
        path = server.ask("POST", "/match", pictures[0].read_bytes()).json["matches"][0]["path"]
        command = [
            *(chromium, *QUIET, "--virtual-time-budget=20000"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"),
            f"http://127.0.0.1:{server.port}/#{quote(path, safe='')}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    page = re.sub(r"<script>.*</script>", "", done.stdout, flags=re.DOTALL)
    assert "uncalibrated: scores rank the gallery" in page
    first, second = re.findall(r"<li>.*?</li>", page, re.DOTALL)
    assert re.search(r'<img alt="Rank 1" src="blob:', first)
    assert "1. Ada 0.9" in first or "1. Ada 1.0" in first
    assert "2. &amp;b;Bo&amp;b; 0." in second  # a name is text


def test_a_picture_is_chosen_or_dropped(tmp_path: Path) -> None:
    chromium = find_chromium()
    told: queue.Queue[dict[str, Any]] = queue.Queue()
    folder = tmp_path / "pictures"
    pictures = [draw(folder / f"{name}.png", number).read_bytes() for number, name in enumerate("ab")]
    (folder / "text.txt").write_text("no picture")
    embedder = Embedder(contract(), "a projection", CountingModel())
    service = Service(embedder, open_enrolment_gallery(str(tmp_path / "people.gallery"), embedder))
    open_app = create_app(service, None, 10**6)
    for name, picture in zip(("Ada", "Bo"), pictures, strict=True):
        assert ask(open_app, "POST", f"/people?name={name}", picture)[0] == 201

    app = create_app(service, "a key", 10**6)
    page = files("bot_deploy.serving").joinpath("page.html").read_text(encoding="utf-8")

    async def show_page(_: Request) -> Response:
        return HTMLResponse(page + PERSON, headers={"Content-Security-Policy": PAGE_POLICY})

    async def send_file(request: Request) -> Response:
        return Response((folder / request.path_params["name"]).read_bytes())

    async def hear(request: Request) -> Response:
        told.put(json.loads(await request.body()))
        return Response()

    app.add_route("/person", show_page)
    app.add_route("/file/{name}", send_file)
    app.add_route("/told", hear, ["POST"])
    with running(app) as address:
        command = [chromium, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", f"{address}/person"]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            steps = [told.get(timeout=60) for _ in range(7)]
        finally:
            browser.terminate()
            browser.wait()
    seen = {step.pop("step"): step for step in steps}
    nothing = {"query": 16, "matches": [], "heights": [], "over": False}
    assert seen["open"] == {**nothing, "query": 0, "verdict": ""}
    assert seen["no key"] == {**nothing, "verdict": "the header X-API-Key is missing or wrong"}
    scores = embedder.embed([folder / "a.png", folder / "b.png"])
    other = f"{scores[0] @ scores[1]:.3f}"
    for step, first, second in (("choose", "Ada", "Bo"), ("drop", "Bo", "Ada")):
        assert seen[step]["matches"] == [f"1. {first} 1.000", f"2. {second} {other}"]
        assert (seen[step]["query"], seen[step]["heights"]) == (16, [16, 16])
        assert seen[step]["verdict"].startswith("uncalibrated: scores rank the gallery")
        assert not seen[step]["over"]
    assert seen["over"] == {**seen["choose"], "over": True}
    assert seen["no picture"]["verdict"].startswith("the picture: not a JPEG, PNG, WebP")
    assert seen["no file"] == seen["no picture"]
