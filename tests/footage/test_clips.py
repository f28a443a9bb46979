"""Clips of appearances: what is in them, and that a browser plays them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from helpers.fake_camera import BLUE, RED, scene
from helpers.videos import write_lossless
from PIL import Image

from bot_deploy.errors import InputError
from bot_deploy.footage import Appearance
from bot_deploy.footage.clips import MARGIN_S, MAX_CLIP_S, cut_clip
from bot_deploy.matching.match import Match, Ranking
from bot_deploy.matching.verdict import Verdict
from bot_deploy.reports.page import write_html


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red for three seconds, then blue for twenty."""
    red, blue = (scene((colour, (0, 0, 320, 240))) for colour in (RED, BLUE))
    return write_lossless(tmp_path_factory.mktemp("video") / "x.mkv", [red] * 30 + [blue] * 200)


def appearance(video: Path, start: float, end: float) -> Appearance:
    return Appearance("door", start, end, False, video, start, end, (0, 1), ("door/0001/000001.jpg",), "door/0001")


def test_a_clip_shows_the_appearance(video: Path) -> None:
    clip = cut_clip(appearance(video, 2.0, 4.0))
    with av.open(io.BytesIO(clip)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("vp8", 320, 240)
        pictures = [
            (frame.time, frame.to_ndarray(format="rgb24").mean(axis=(0, 1))) for frame in container.decode(stream)
        ]
    times = np.array([time for time, _ in pictures])
    assert times[0] == 0
    assert times[-1] == pytest.approx(2 + 2 * MARGIN_S, abs=0.11)
    assert np.diff(times).max() < 0.21
    for time, colour in pictures:
        before = 2.0 - MARGIN_S + time < 3.0 - 0.05
        np.testing.assert_allclose(colour, RED if before else BLUE, atol=25)


def test_a_long_appearance_is_cut_and_a_missing_video_is_said(video: Path, tmp_path: Path) -> None:
    with av.open(io.BytesIO(cut_clip(appearance(video, 5.0, 22.0)))) as container:
        assert float(container.duration or 0) / av.time_base == pytest.approx(MAX_CLIP_S, abs=0.3)
    with pytest.raises(InputError, match="the video is gone"):
        cut_clip(appearance(tmp_path / "gone.mp4", 0, 1))


def show_in_browser(page: Path, script: str) -> dict[str, Any]:
    """What `script` tells of `page`: it calls `tell(document)`. The policy of the page holds, and allows this script.

    The page itself runs no script, so a copy with one is opened.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium on the PATH")
    tell = "const tell = (told) => document.title = JSON.stringify(told);"
    script = f"{tell}\n{script}"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = page.read_text(encoding="utf-8")
    end = "form-action 'none'\""  # of the policy
    assert html.count(end) == 1
    html = html.replace(end, f"form-action 'none'; script-src 'sha256-{digest}'\"")
    copy = page.with_name("copy.html")
    copy.write_text(html.replace("<style>", f"<script>{script}</script><style>", 1), encoding="utf-8")
    command = [
        *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=20000", "--dump-dom", copy.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    (title,) = re.findall("<title>([^<]*)</title>", done.stdout)
    assert title.startswith("{"), f"the page tells nothing: {title}; {done.stderr[-500:]}"
    told: dict[str, Any] = json.loads(unescape(title))
    return told


# Plays the clip until it has moved on, or cannot; then tells what happened.
PLAY = """
const violations = [];
document.addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
addEventListener("load", async () => {
  const video = document.querySelector("video");
  video.muted = true;
  let problem = "";
  const moved = new Promise((resolve) => {
    video.addEventListener("timeupdate", () => video.currentTime > 0 && resolve());
  });
  const late = new Promise((resolve) => setTimeout(resolve, 15000));
  try { await video.play(); await Promise.race([moved, late]); } catch (error) { problem = String(error); }
  const bars = [...document.querySelectorAll(".lane a")].map((bar) => bar.getBoundingClientRect());
  tell({
    problem, violations, time: video.currentTime, seconds: video.duration || 0,
    size: [video.videoWidth, video.videoHeight],
    bars: bars.map((bar) => [bar.width, bar.height]),
    loaded: performance.getEntriesByType("resource").map((entry) => entry.name.slice(0, 100)),
  });
});
"""


@pytest.fixture
def page(video: Path, tmp_path: Path) -> Path:
    """A page with two matches in `video`."""
    Image.new("RGB", (20, 40), RED).save(tmp_path / "1.png")
    matches = tuple(
        Match(tmp_path / "1.png", 0.9, rank, appearance=appearance(video, start, start + 2))
        for rank, start in ((1, 2.0), (2, 9.0))
    )
    write_html([Ranking(tmp_path / "1.png", matches, Verdict("match", "match"))], {}, tmp_path, tmp_path / "x.html")
    sources = re.findall(r'<video[^>]* src="data:video/webm;base64,([^"]+)"', (tmp_path / "x.html").read_text())
    assert [base64.b64decode(source) for source in sources] == [
        cut_clip(match.appearance)  # type: ignore[arg-type]
        for match in matches
    ]
    return tmp_path / "x.html"


def test_a_browser_plays_the_clip_in_the_page(page: Path) -> None:
    told = show_in_browser(page, PLAY)
    assert told["problem"] == ""
    assert told["violations"] == []
    assert told["size"] == [320, 240]
    assert told["seconds"] == pytest.approx(3, abs=0.3)
    assert 0 < told["time"] <= 3.3
    assert len(told["bars"]) == 2
    assert all(width > 3 and height > 20 for width, height in told["bars"]), told["bars"]
    assert all(name.startswith(("data:", "blob:")) for name in told["loaded"]), told["loaded"]


def test_a_page_that_may_play_nothing_is_noticed(page: Path) -> None:
    """The test above can fail."""
    html = page.read_text(encoding="utf-8")
    assert "media-src data:" in html
    page.write_text(html.replace("media-src data:", "media-src 'none'"), encoding="utf-8")
    told = show_in_browser(page, PLAY)
    assert told["problem"]
    assert "media-src" in told["violations"]
    assert told["time"] == 0
