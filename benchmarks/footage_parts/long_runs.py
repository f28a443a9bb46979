"""Hours of video from a minute: its packets are repeated, so that nothing is rendered or encoded twice."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import av
import numpy as np

from bot_deploy.footage import FootageUpdate, index_footage
from bot_deploy.footage.records import footage_folder
from bot_deploy.gallery import open_or_create_index
from bot_deploy.synthetic.clip import Clip, plan_clip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bot_deploy.embedder import Embedder
    from bot_deploy.images import Pixels
    from bot_deploy.video.detectors import Detector

FPS, HEIGHT = 25, 432  # of the videos; 768 pixels wide
PEOPLE = 6
BUSY_S, EMPTY_S = 60, 4  # rendered: with people, and without
UNIT_S = 600  # repeated: people in the first tenth
SAMPLE_S = 1.0  # between two samples of the memory
START_SHARE = 0.2  # of a run, in which caches fill
GOAL_MIB_PER_HOUR = 4.0


def speed(embedder: Embedder, detector: Detector, minutes: float, *, busy: bool) -> None:
    """Prints the time for a video of `minutes`, with people in view in a tenth of it, or in all of it."""
    with tempfile.TemporaryDirectory() as folder:
        make = make_busy_video if busy else make_video
        video = make(Path(folder), round(60 * minutes))
        wall, cpu, update = _index(video, Path(folder) / "quiet.gallery", embedder, detector)
    (found,) = update.videos
    stages = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in update.stages.items())
    print("| minutes of video | appearances | minutes to read | CPU minutes | times real time |")
    print("| ---: " * 5 + "|")
    print(
        f"| {found.seconds / 60:.1f} | {found.appearances} | {wall / 60:.2f} | {cpu / 60:.2f} | "
        f"{found.seconds / wall:.1f} |"
    )
    print(f"stages: {stages}")


def memory(embedder: Embedder, detector: Detector, hours: float) -> None:
    """Prints how much the memory of the process grows in an hour of video; exits with 1 above the goal."""
    with tempfile.TemporaryDirectory() as folder:
        video = make_video(Path(folder), round(3600 * hours))
        with _MemorySamples() as samples:
            wall, _, update = _index(video, Path(folder) / "long.gallery", embedder, detector)
    (found,) = update.videos
    times, mib = np.array(samples.taken).T
    later = times >= START_SHARE * times[-1]
    slope = float(np.polyfit(times[later], mib[later], 1)[0]) * wall / (found.seconds / 3600)
    print(
        "| hours of video | appearances | hours to read | MiB after the start | MiB at the end | MiB an hour of video |"
    )
    print("| ---: " * 6 + "|")
    size = f"{mib[later][0]:.0f} | {mib[-1]:.0f}"
    print(f"| {found.seconds / 3600:.2f} | {found.appearances} | {wall / 3600:.2f} | {size} | {slope:.2f} |")
    if slope > GOAL_MIB_PER_HOUR:
        raise SystemExit(1)


def _index(video: Path, out: Path, embedder: Embedder, detector: Detector) -> tuple[float, float, FootageUpdate]:
    """Indexes `video`; returns the seconds that passed, those of the CPU, and the result."""
    started, cpu = time.perf_counter(), time.process_time()
    gallery = open_or_create_index(out, embedder.contract, footage_folder(str(out)))
    try:
        update = index_footage(gallery, [video], embedder, detector)
    finally:
        gallery.close()
    return time.perf_counter() - started, time.process_time() - cpu, update


class _MemorySamples:
    """Samples the resident memory of the process in a thread; a context manager."""

    def __init__(self) -> None:
        self.taken: list[tuple[float, float]] = []  # seconds and MiB
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        started = time.perf_counter()
        while not self._ended.wait(SAMPLE_S):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.taken.append((time.perf_counter() - started, pages * os.sysconf("SC_PAGE_SIZE") / 2**20))


def make_video(folder: Path, seconds: int) -> Path:
    """A video of about `seconds`: people walk past in the first tenth of each `UNIT_S`, or of a shorter video."""
    unit = min(UNIT_S, seconds)
    busy = min(BUSY_S, unit // 10)
    clip = plan_clip(1, people=PEOPLE, cameras=1, seconds=BUSY_S, fps=FPS, height=HEIGHT)
    nobody = replace(clip, trajectories=())
    _encode(folder / "busy.mkv", clip, busy * FPS)
    _encode(folder / "empty.mkv", nobody, EMPTY_S * FPS)
    parts = [folder / "busy.mkv", *[folder / "empty.mkv"] * ((unit - busy) // EMPTY_S)]
    return _join(parts * max(1, seconds // unit), folder / "quiet.mkv")


def make_busy_video(folder: Path, seconds: int) -> Path:
    """A video of about `seconds`, with people in view all the time."""
    clip = plan_clip(1, people=PEOPLE, cameras=1, seconds=BUSY_S, fps=FPS, height=HEIGHT)
    _encode(folder / "minute.mkv", clip, BUSY_S * FPS)
    return _join([folder / "minute.mkv"] * max(1, seconds // BUSY_S), folder / "busy.mkv")


def _encode(path: Path, clip: Clip, frames: int) -> None:
    """Writes H.264 as a camera does: no pictures that refer to later ones."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", FPS, options={"preset": "veryfast", "bf": "0", "crf": "26"})
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        stream.codec_context.gop_size = 2 * FPS
        for picture in _pictures(clip, frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))


def _pictures(clip: Clip, frames: int) -> Iterator[Pixels]:
    for number in range(frames):
        yield clip.render_frame(1, number).picture


def _join(parts: list[Path], out: Path) -> Path:
    """Writes the packets of `parts`, which have one encoding, one after the other."""
    packets = {path: _read_packets(path) for path in set(parts)}
    with av.open(str(out), "w") as target, av.open(str(parts[0])) as first:
        stream = target.add_stream_from_template(first.streams.video[0])
        frame = 0
        for path in parts:
            for data, is_key in packets[path]:
                packet = av.Packet(data)
                packet.stream, packet.is_keyframe = stream, is_key
                packet.time_base = 1 / first.streams.video[0].average_rate
                packet.pts = packet.dts = frame
                target.mux(packet)
                frame += 1
    return out


def _read_packets(path: Path) -> list[tuple[bytes, bool]]:
    with av.open(str(path)) as container:
        return [(bytes(packet), packet.is_keyframe) for packet in container.demux(video=0) if packet.size]
