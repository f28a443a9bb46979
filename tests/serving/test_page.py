"""The page of `bot serve`, in headless Chromium."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from helpers.bot_server import serving

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")


def test_the_page_shows_the_rank_list(onnx_file: Path, tmp_path: Path, pictures: list[Path]) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium on the PATH")
    with serving(onnx_file, tmp_path / "people.gallery") as server:
        for number, name in ((0, "Ada"), (2, "<b>Bo<b>".replace("<", "&").replace(">", ";"))):
            assert server.ask("POST", f"/people?name={quote(name)}", pictures[number].read_bytes()).status == 201
        path = server.ask("POST", "/match", pictures[0].read_bytes()).json["matches"][0]["path"]
        command = [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
            *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=20000"),
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
