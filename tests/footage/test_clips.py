"""Clips of appearances: what is in them, and that a browser plays them."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from pathlib import Path

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


def test_a_browser_plays_the_clip_in_the_page(video: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium on the PATH")
    Image.new("RGB", (20, 40), RED).save(tmp_path / "1.png")
    match = Match(tmp_path / "1.png", 0.9, 1, appearance=appearance(video, 2.0, 4.0))
    page = tmp_path / "x.html"
    write_html([Ranking(tmp_path / "1.png", (match,), Verdict("match", "match"))], {}, tmp_path, page)
    html = page.read_text(encoding="utf-8")
    (source,) = re.findall(r'<video[^>]* src="data:video/webm;base64,([^"]+)"', html)
    assert base64.b64decode(source) == cut_clip(match.appearance)  # type: ignore[arg-type]
    # The page itself runs no script; a copy with one tells what the browser makes of the clip.
    script = """<script>
      const video = document.querySelector("video");
      const tell = () => document.title = `${video.videoWidth}x${video.videoHeight} ${video.duration.toFixed(1)}`;
      video.readyState >= 2 ? tell() : video.addEventListener("loadeddata", tell);
    </script>"""
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    assert policy.search(html)
    copy = tmp_path / "copy.html"
    copy.write_text(policy.sub("", html).replace("</html>", f"{script}</html>"), encoding="utf-8")
    command = [
        *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=8000", "--dump-dom", copy.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    (title,) = re.findall("<title>([^<]*)</title>", done.stdout)
    size, _, seconds = title.partition(" ")
    assert size == "320x240", done.stderr[-500:]
    assert float(seconds) == pytest.approx(3, abs=0.3)
