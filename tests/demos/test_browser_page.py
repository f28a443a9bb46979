"""The page that embeds in a browser, in headless Chromium.

A small module stands for ONNX Runtime Web, whose vectors are the pixels themselves: their cosine shows whether all of
them are ours. With the real runtime: BOT_ORT_WEB=FOLDER names the folder `dist` of the npm package onnxruntime-web.
"""

from __future__ import annotations

import os
import queue
import re
import shutil
import subprocess
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from helpers.running_server import running
from PIL import Image

from bot_deploy import images, open_embedder
from bot_deploy.models import box

ROOT = Path(__file__).resolve().parents[2]
FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
SIZE = (64, 33)
# Rows first in every version of Pillow; and one side that fits already.
SOURCES = [(130, 99), (31, 33)]
PIXELS_AS_VECTORS = """
export const env = { wasm: {} };
export class Tensor { constructor(type, data, dims) { Object.assign(this, { type, data, dims }); } }
export const InferenceSession = { create: async () => ({
  inputMetadata: [{ shape: ["N", HEIGHT, WIDTH, 3] }],
  run: async ({ images }) => {
    if (images.type !== "uint8" || images.dims.join() !== "1,HEIGHT,WIDTH,3") throw new Error("another tensor");
    const data = Float64Array.from(images.data, (value, index) => value * Math.sin(index + 1));
    const length = Math.hypot(...data);
    return { embeddings: { data: data.map((value) => value / length) } };
  },
}) };
"""


# Put into the page: it tells the server what the page says at last.
TELL = """<script>
  const told = document.getElementById("answer");
  new MutationObserver(() => {
    if (!/^(Computing|Choose)/.test(told.textContent)) fetch("/answer?" + encodeURIComponent(told.outerHTML));
  }).observe(told, { childList: true });
</script>"""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        self.answers: queue.Queue[str] = queue.Queue()

    def handle_error(self, request: object, client_address: object) -> None:
        """The browser is ended at any moment."""


class _Handler(SimpleHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/answer":
            self.server.answers.put(unquote(query))
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature of http.server
        """Nothing on stderr."""


def open_page(folder: Path, profile: Path) -> str:
    """What the page in `folder` says after it has compared a.png and b.png, as HTML."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium on the PATH")
    text = (ROOT / "demos" / "browser.html").read_text(encoding="utf-8")
    script = '<script type="module">'
    assert text.count(script) == 1
    (folder / "browser.html").write_text(text.replace(script, TELL + script), encoding="utf-8")
    with running(_Server(folder)) as server:
        command = [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
            *("--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}"),
            f"http://127.0.0.1:{server.server_port}/browser.html#a.png,b.png",
        ]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return server.answers.get(timeout=120)
        finally:
            browser.terminate()
            browser.wait()


def shown_cosine(page: str) -> float:
    found = re.search(r'data-cosine="([^"]+)"[^>]*>cosine -?\d\.\d{4}<', page)
    assert found, page
    return float(found[1])


def write_pictures(folder: Path) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SOURCES]
    for name, pixels in zip("ab", pictures, strict=True):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return pictures


def test_the_pixels_are_those_of_our_resize(tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    pictures = write_pictures(tmp_path / "page")
    module = PIXELS_AS_VECTORS.replace("HEIGHT", str(SIZE[0])).replace("WIDTH", str(SIZE[1]))
    (tmp_path / "page" / FILES[0]).write_text(module)
    vectors = []
    for pixels in pictures:
        vector = images.resize(pixels, SIZE).ravel() * np.sin(np.arange(1, SIZE[0] * SIZE[1] * 3 + 1))
        vectors.append(vector / np.linalg.norm(vector))
    cosine = shown_cosine(open_page(tmp_path / "page", tmp_path / "profile"))
    # One pixel that differs by one changes it by about 1e-5 / 50.
    assert cosine == pytest.approx(vectors[0] @ vectors[1], abs=1e-12)


def test_transparent_pixels_are_blended_with_grey(tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    rng = np.random.default_rng(4)
    vectors = []
    for name in "ab":
        pixels = rng.integers(0, 256, (*SIZE, 4), dtype=np.uint8)
        pixels[..., 3] = 255 * rng.integers(0, 2, SIZE)
        Image.fromarray(pixels, "RGBA").save(tmp_path / "page" / f"{name}.png")
        ours = images.read_image(tmp_path / "page" / f"{name}.png")
        vector = ours.ravel() * np.sin(np.arange(1, SIZE[0] * SIZE[1] * 3 + 1))
        vectors.append(vector / np.linalg.norm(vector))
    module = PIXELS_AS_VECTORS.replace("HEIGHT", str(SIZE[0])).replace("WIDTH", str(SIZE[1]))
    (tmp_path / "page" / FILES[0]).write_text(module)
    cosine = shown_cosine(open_page(tmp_path / "page", tmp_path / "profile"))
    assert cosine == pytest.approx(vectors[0] @ vectors[1], abs=1e-12)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    write_pictures(tmp_path / "page")
    page = open_page(tmp_path / "page", tmp_path / "profile")
    assert f"Are ./{FILES[0]}, {FILES[1]} and model.onnx in this folder" in page


def test_embeddings_are_those_of_the_model(tmp_path: Path) -> None:
    runtime = os.environ.get("BOT_ORT_WEB")
    if not runtime:
        pytest.skip("needs onnxruntime-web; name its folder dist as BOT_ORT_WEB")
    folder = tmp_path / "page"
    folder.mkdir()
    pictures = write_pictures(folder)
    shutil.copy(box.PATH, folder / "model.onnx")
    for name in FILES:
        shutil.copy(Path(runtime) / name, folder)
    one, another = open_embedder("box", "cpu").embed(pictures)
    assert shown_cosine(open_page(folder, tmp_path / "profile")) == pytest.approx(float(one @ another), abs=1e-4)


def test_the_page_loads_nothing_from_elsewhere() -> None:
    text = (ROOT / "demos" / "browser.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]+\.", text)
    assert "default-src 'self'" in text
