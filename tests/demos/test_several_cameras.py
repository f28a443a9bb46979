"""The live demo with several cameras: shared people, names of cameras, and the grid."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_camera import BLUE, CONTRACT, DETECTOR, GREEN, RED, embed, embedder, frames_of, scene
from helpers.videos import walk, write_lossless

from bot_deploy.demos import app
from bot_deploy.demos.cameras import Camera, name_cameras
from bot_deploy.demos.enrolment import open_enrolment_gallery
from bot_deploy.demos.grid import arrange
from bot_deploy.demos.overlay import STRIP_WIDTH, View, draw, find_point
from bot_deploy.demos.recognition import LiveRecognizer
from bot_deploy.demos.recorder import Recorder
from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError
from bot_deploy.gallery import LocalIndex
from bot_deploy.video.detectors import Detections, Detector
from bot_deploy.video.sources import open_source
from bot_deploy.video.sources.together import open_sources


def watch(videos: list[Path], folder: Path) -> tuple[app.Summary, list[dict]]:
    """Runs the demo on `videos` with automatic enrolment; returns the events."""
    addresses = [str(video) for video in videos]
    gallery = open_enrolment_gallery(str(folder / "g"), embedder())
    with open_sources(addresses) as sources, Recorder(folder / "out.mp4", folder / "e.jsonl", 10) as recorder:
        cameras = name_cameras(sources, addresses)
        rates = [source.fps for source in sources]
        recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, *rates, auto_enrol=True)
        summary = app.run(cameras, recognizer, recorder)
    gallery.close()
    return summary, [json.loads(line) for line in (folder / "e.jsonl").read_text().splitlines()]


def test_who_is_enrolled_on_one_camera_is_named_on_the_others(tmp_path: Path) -> None:
    first = write_lossless(tmp_path / "cam1.mkv", walk(9, [("red", 0.5, 3.0), ("blue", 6.0, 8.5)]))
    second = write_lossless(tmp_path / "cam2.mkv", walk(9, [("green", 0.5, 3.0), ("red", 5.0, 7.5)]))
    summary, events = watch([first, second], tmp_path)
    seen = [
        (event["camera_name"], event["event"], event["name"], round(event["time"]))
        for event in events
        if event["event"] != "left"
    ]
    assert [one for one in seen if one[2] == "person-1"] == [
        ("cam1", "enrolled", "person-1", 1),
        ("cam2", "recognised", "person-1", 5),
    ]
    assert {(event["camera_name"], event["source"]) for event in events} == {
        ("cam1", str(first)),
        ("cam2", str(second)),
    }
    assert summary.cameras == {"cam1": 90, "cam2": 90}
    assert (summary.frames, len(summary.enrolled)) == (180, 3)
    with open_source(str(tmp_path / "out.mp4")) as source:
        shapes = {frame.pixels.shape for frame in source}
    assert shapes == {(240, 2 * 320 + STRIP_WIDTH, 3)}


def test_a_stranger_on_two_cameras_at_once_is_enrolled_once(tmp_path: Path) -> None:
    videos = [write_lossless(tmp_path / f"cam{n}.mkv", walk(3, [("red", 0.5, 3.0)])) for n in (1, 2)]
    _, events = watch(videos, tmp_path)
    assert [(event["camera_name"], event["event"], event["name"]) for event in events] == [
        ("cam1", "enrolled", "person-1"),
        ("cam2", "recognised", "person-1"),
        ("cam1", "left", "person-1"),
        ("cam2", "left", "person-1"),
    ]


def test_events_and_crops_of_a_recording_have_its_clock(tmp_path: Path) -> None:
    start = 1769860800.0  # 2026-01-31 12:00 UTC
    first = write_lossless(tmp_path / "entrance_2026-01-31_12-00-00.mkv", walk(4, [("red", 0.5, 3.0)]))
    second = write_lossless(tmp_path / "till.mkv", walk(9, [("blue", 5.0, 7.5)]))
    _, events = watch([first, second], tmp_path)
    by_camera = {name: [event for event in events if event["camera_name"] == name] for name in ("entrance", "till")}
    enrolled, left = by_camera["entrance"]
    assert (left["event"], left["from"], left["to"]) == ("left", start + 0.6, start + 3.0)
    assert enrolled["clock"] == f"2026-01-31T12:00:0{enrolled['time']:.3f}+00:00"
    enrolled, left = by_camera["till"]
    assert "clock" not in enrolled
    assert (left["from"], left["to"]) == (5.1, 7.5)
    with LocalIndex(tmp_path / "g") as gallery:
        crops = {item.identity: (Path(item.path).name, item.time) for item in gallery.items()}
    assert crops["person-1"][0].startswith("2026-01-31_12-00-0")
    assert start <= crops["person-1"][1] <= start + 3.0
    assert crops["person-2"][1] is None
    assert 51 <= int(Path(crops["person-2"][0]).stem) <= 75  # its frame


def test_detector_and_model_get_the_frames_of_all_cameras_in_one_batch(tmp_path: Path) -> None:
    frames_at_once, crops_at_once = [], []

    def detect_batch(frames: list[np.ndarray]) -> list[Detections]:
        frames_at_once.append(len(frames))
        return [DETECTOR.detect(pixels) for pixels in frames]

    def embed_and_count(pictures: np.ndarray) -> np.ndarray:
        crops_at_once.append(len(pictures))
        return embed(pictures)

    gallery = open_enrolment_gallery(str(tmp_path / "g"), embedder())
    detector = Detector("a fake", DETECTOR.detect, detect_batch)
    recognizer = LiveRecognizer(detector, Embedder(CONTRACT, "a fake", embed_and_count), gallery, 10, 10, 10)
    people = [(colour, (40 + 60 * place, 60, 90 + 60 * place, 200)) for place, colour in enumerate((RED, GREEN, BLUE))]
    for frame in frames_of([scene(*people)] * 2):
        results = recognizer.process_frames({0: frame, 2: frame})
    assert frames_at_once == [2, 2]
    assert crops_at_once == [6]
    assert {number: len(result.persons) for number, result in results.items()} == {0: 3, 2: 3}
    gallery.close()


def test_cameras_are_named_as_given_or_by_their_addresses(tmp_path: Path) -> None:
    paths = ["yard/cam3.mkv", "entrance_2026-01-31_12-00-00.mkv", "till/1.mkv", "till/2.mkv"]
    addresses = [str(write_lossless(tmp_path / path, walk(0.2))) for path in paths]
    with open_sources(addresses) as sources:
        cameras = name_cameras(sources, addresses)
        assert [camera.name for camera in cameras] == ["cam3", "entrance", "till", "till (2)"]
        assert [camera.start for camera in cameras] == [None, 1769860800.0, None, None]
        assert [camera.name for camera in name_cameras(sources, addresses, ["a", "b", "c", "d"])] == [*"abcd"]
        with pytest.raises(InputError, match="2 values for 4 sources"):
            name_cameras(sources, addresses, ["a", "b"])


def test_a_click_finds_the_camera_and_the_point_on_its_frame() -> None:
    tall = np.full((200, 100, 3), 90, np.uint8)
    views = [View(scene()), View(tall), View(scene())]
    picture = draw(views, [])
    assert picture.shape == (480, 640 + STRIP_WIDTH, 3)
    # The tall one is scaled by 1.2, to a height of 240, and stands in the middle of the upper right cell.
    left = 320 + (320 - 120) // 2
    assert (picture[30:230, left + 2 : left + 118] == 90).all()
    assert find_point((left + 12, 24), views) == (1, (pytest.approx(10), pytest.approx(20)))
    assert find_point((10, 250), views) == (2, (10, 10))
    assert find_point((400, 400), views) is None  # the cell without a camera
    assert find_point((330, 10), views) is None  # beside the tall one


def test_many_large_frames_are_made_smaller() -> None:
    assert arrange(4, (432, 768)).size == (864, 1536)
    assert arrange(1, (2160, 3840)).size == (2160, 3840)
    height, width = arrange(9, (1080, 1920)).size
    assert (height, width) == (1080, 1920)
    assert arrange(5, (1080, 1920)).columns == 3


def test_a_camera_without_a_frame_yet_is_an_empty_cell(tmp_path: Path) -> None:
    gallery = open_enrolment_gallery(str(tmp_path / "g"), embedder())
    recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, 10, 10)

    class Late:
        name, is_live, fps, dropped = "late", False, 10.0, 0

        def __iter__(self) -> object:
            return frames_of([scene(), scene()], first=5)

    class Early(Late):
        def __iter__(self) -> object:
            return frames_of([scene()])

    with Recorder(None, None, 10) as recorder:
        cameras = [Camera(Early(), "a"), Camera(Late(), "b")]  # type: ignore[arg-type]
        summary = app.run(cameras, recognizer, recorder)
    assert summary.cameras == {"a": 1, "b": 2}
    gallery.close()
