"""Videos to an index: appearances with camera and time, resumed after a kill, never read twice."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_camera import DETECTOR, embedder, vector_of
from helpers.random_gallery import needs_milvus
from helpers.videos import COLOURS, SECONDS, VISITS, walk, write_lossless
from PIL import Image

from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError
from bot_deploy.footage import Footage, FootageUpdate, index_footage, open_footage_gallery
from bot_deploy.footage import indexing as module
from bot_deploy.footage.records import footage_folder, read_records
from bot_deploy.gallery import index_folder, is_milvus, open_index, open_or_create_index, renew_vectors
from bot_deploy.matching.appearances import count_results
from bot_deploy.matching.identify import person_name
from bot_deploy.matching.match import match
from bot_deploy.video import appearances
from bot_deploy.video.detectors import Detections, Detector

START = 1_769_860_800.0  # 2026-01-31 12:00:00 UTC
NAME = "entrance_2026-01-31_12-00-00.mkv"


@pytest.fixture(autouse=True)
def _short_stretches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(appearances, "MIN_STRETCH_S", 3.0)
    monkeypatch.setattr(appearances, "QUIET_S", 2.2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lossless(tmp_path_factory.mktemp("video") / NAME, walk(SECONDS))


def index(video: Path, out: Path, **options: object) -> FootageUpdate:
    with open_or_create_index(out, embedder().contract, footage_folder(str(out))) as gallery:
        return index_footage(gallery, [video], embedder(), DETECTOR, **options)  # type: ignore[arg-type]


def content(out: Path) -> list[tuple[object, ...]]:
    """All that an index holds of its crops, and of their vectors."""
    with open_index(out, embedder().contract) as gallery:
        items = sorted(gallery.items())
        vectors = gallery.vectors([item.path for item in items])
        return [(*item, *vector) for item, vector in zip(items, vectors.tolist(), strict=True)]


@pytest.mark.parametrize("name", ["shop.gallery", pytest.param("shop.db", marks=needs_milvus)])
def test_each_visit_is_an_appearance(name: str, video: Path, tmp_path: Path) -> None:
    out = tmp_path / name
    (update,) = index(video, out).videos
    assert (update.camera, update.start, update.appearances) == ("entrance", START, len(VISITS))
    with open_index(out, embedder().contract) as gallery:
        assert is_milvus(str(out)) == (name == "shop.db")
        footage = Footage(gallery)
        assert len(footage) == len(VISITS)
        for colour in COLOURS:
            visits = [(start, end) for who, start, end in VISITS if who == colour]
            found = match(np.full((40, 20, 3), COLOURS[colour], np.uint8), gallery, embedder(), len(visits)).matches
            assert len(found) == len(visits)
            for one in found:
                assert one.score == pytest.approx(1, abs=1e-3)
                seen = one.appearance
                assert seen is not None
                assert (seen.camera, seen.has_clock, seen.video) == ("entrance", True, video)
                # The tracker needs a second look, and every look is at one frame of ten a second.
                assert any(
                    start <= seen.video_start <= start + 0.3 and end - 0.3 <= seen.video_end <= end + 0.1
                    for start, end in visits
                )
                assert (seen.start, seen.end) == (START + seen.video_start, START + seen.video_end)
                assert seen.frames == (round(10 * seen.video_start), round(10 * seen.video_end))
                assert one.time is not None
                assert seen.start <= one.time <= seen.end
                assert one.path.is_file()
                np.testing.assert_allclose(embedder().embed([one.path])[0], vector_of(COLOURS[colour]), atol=0.02)


def test_a_later_model_renews_the_vectors_and_does_not_read_the_video_again(video: Path, tmp_path: Path) -> None:
    out = tmp_path / "shop.gallery"
    index(video, out)
    early = embedder()
    contract = replace(early.contract, fingerprint="f" * 16, compatible_with=(early.contract.embedding_space,))
    turned = Embedder(contract, "turned", lambda batch: np.ascontiguousarray(early.embed(list(batch))[:, ::-1]))
    before = content(out)
    with open_or_create_index(out, contract, footage_folder(str(out))) as gallery:
        (update,) = index_footage(gallery, [video], turned, DETECTOR).videos
        assert (update.wall_seconds, update.appearances) == (0.0, len(VISITS))
        assert renew_vectors(gallery, turned) == len(before)
        items = sorted(gallery.items())
        assert [tuple(item) for item in items] == [row[: len(items[0])] for row in before]
        old = np.array([row[len(items[0]) :] for row in before])
        # The kept crops are JPEG, so their embeddings differ a little from those of the frames.
        np.testing.assert_allclose(gallery.vectors([item.path for item in items]), old[:, ::-1], atol=0.03)


def test_filters_are_those_of_crops(video: Path, tmp_path: Path) -> None:
    out = tmp_path / "shop.gallery"
    index(video, out)
    index(write_lossless(tmp_path / "till_2026-01-31_12-00-00.mkv", walk(5)), out)
    query = np.full((40, 20, 3), COLOURS["red"], np.uint8)
    with open_index(out, embedder().contract) as gallery:
        cameras = Footage(gallery).cameras
        assert sorted(cameras) == ["entrance", "till"]
        assert len(set(cameras.values())) == 2

        def starts(**filters: object) -> list[tuple[str, int]]:
            found = match(query, gallery, embedder(), 100, **filters).matches  # type: ignore[arg-type]
            return sorted((one.appearance.camera, round(one.appearance.video_start)) for one in found if one.appearance)

        everybody = [("entrance", start) for start in (1, 6, 7, 12)] + [("till", 1)]
        assert starts() == sorted(everybody)
        assert starts(cameras=[cameras["till"]]) == [("till", 1)]
        assert starts(exclude_cameras=[cameras["entrance"]]) == [("till", 1)]
        assert starts(since=START + 11) == [("entrance", 12)]
        assert starts(until=START + 4) == [("entrance", 1), ("till", 1)]
        # Who is in view then, even where no kept crop is of that moment.
        assert starts(since=START + 2.61, until=START + 2.62) == [("entrance", 1), ("till", 1)]
        assert starts(since=START + 9.0, until=START + 11) == [("entrance", 7)]
        footage = Footage(gallery)
        assert count_results(gallery, footage) == len(everybody)
        assert count_results(gallery, footage, since=START + 2.61, until=START + 2.62) == 2
        assert count_results(gallery, footage, cameras=[cameras["entrance"]], since=START + 7) == 3
        with pytest.raises(InputError, match=r"yard: no camera of this gallery \(entrance, till\)"):
            Footage(gallery).find_camera("yard")


def test_videos_and_crops_share_an_index(video: Path, tmp_path: Path) -> None:
    out, crops = tmp_path / "shop.gallery", tmp_path / "crops"
    for name, colour in COLOURS.items():
        (crops / name).mkdir(parents=True)
        Image.new("RGB", (20, 40), colour).save(crops / name / "1.png")
    with open_or_create_index(out, embedder().contract, crops) as gallery:
        index_folder(gallery, crops, embedder())
    index(video, out)
    with open_index(out, embedder().contract) as gallery:
        index_folder(gallery, crops, embedder())  # what is from videos stays
        found = match(crops / "red" / "1.png", gallery, embedder(), 100).matches
        assert len(found) == len(COLOURS) + len(VISITS)
        assert count_results(gallery, Footage(gallery)) == len(found)
        assert {(one.identity, one.appearance is not None) for one in found[:3]} == {("red", False), (None, True)}
        assert all(one.path.is_file() for one in found)
        # In the live demo, somebody from a video has no name until somebody gives one.
        assert {person_name(item) for item in gallery.items()} == {*COLOURS, None}


def test_a_finished_video_is_not_read_again(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "shop.gallery"
    index(video, out)
    before = content(out)
    monkeypatch.setattr(module, "read_stretches", None)  # calling it would fail
    (again,) = index(video, out).videos
    assert (again.wall_seconds, again.appearances) == (0, len(VISITS))
    assert content(out) == before
    # Another camera and time are written without reading.
    (moved,) = index(video, out, camera="door", start="2026-02-01T12:00").videos
    assert (moved.camera, moved.start) == ("door", START + 86_400)
    for old, new in zip(before, content(out), strict=True):
        assert new[6] == old[6] + 86_400


def killed_runs(video: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Runs that end after 1, 2, ... writes, until one comes to its end."""
    for allowed in itertools.count(1):
        left = allowed

        def end_here(write: object) -> object:
            def wrapped(*words: object, **options: object) -> object:
                nonlocal left
                left -= 1
                if left < 0:
                    raise KeyboardInterrupt
                return write(*words, **options)  # type: ignore[operator]

            return wrapped

        with monkeypatch.context() as patched:
            for name in ("write_atomically", "write_record"):
                patched.setattr(module, name, end_here(getattr(module, name)))
            try:
                index(video, out)
            except KeyboardInterrupt:
                yield allowed
                continue
        return


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_result(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index(video, tmp_path / "whole.gallery")
    out = tmp_path / "killed.gallery"
    done: list[int] = []  # seconds that each run takes over from those before
    counter = module.progress_counter
    monkeypatch.setattr(
        module, "progress_counter", lambda text, finished=0: done.append(finished) or counter(text, finished)
    )
    kills = list(killed_runs(video, out, monkeypatch))
    assert len(kills) >= 3
    assert done[0] == 0
    assert done == sorted(done)
    assert 5 < done[-1] < SECONDS
    assert any("goes on at 00:00:" in message for message in caplog.messages)
    whole, killed = content(tmp_path / "whole.gallery"), content(out)
    assert [row[:3] for row in killed] == [row[:3] for row in whole]
    for ours, theirs in zip(killed, whole, strict=True):
        assert ours[3:] == theirs[3:]
    records = [next(iter(read_records(footage_folder(str(place)))))[1] for place in (tmp_path / "whole.gallery", out)]
    assert records[0] == records[1]


def test_a_video_that_changed_is_read_again(tmp_path: Path) -> None:
    out, path = tmp_path / "shop.gallery", tmp_path / "x.mkv"
    index(write_lossless(path, walk(5)), out)
    index(write_lossless(path, walk(10)), out)
    with open_index(out, embedder().contract) as gallery:
        assert len(Footage(gallery)) == 3
        assert {Path(item.path).parts[0] for item in gallery.items()} == {
            folder.name for folder, _ in read_records(footage_folder(str(out)))
        }


def test_a_folder_of_videos_is_kept_in_the_cache(video: Path, tmp_path: Path) -> None:
    folder = tmp_path / "yard"
    for name in ("2026-01-31_12-00-00.mkv", "2026-01-31_13-00-00.mkv"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(video)
    (folder / "notes.mp4").write_text("no video")
    for wall in (1, 0):
        gallery, update = open_footage_gallery(folder, embedder(), DETECTOR)
        with gallery:
            assert {one.camera for one in update.videos} == {"yard"}
            assert [one.start for one in update.videos] == [START, START + 3600]
            assert len(Footage(gallery)) == 2 * len(VISITS)
        assert any(one.wall_seconds for one in update.videos) == bool(wall)
        assert list(update.broken) == [folder / "notes.mp4"]


def test_replace_removes_the_other_videos(video: Path, tmp_path: Path) -> None:
    out = tmp_path / "shop.gallery"
    index(write_lossless(tmp_path / "till.mkv", walk(4)), out)
    index(video, out, replace=True)
    with open_index(out, embedder().contract) as gallery:
        assert list(Footage(gallery).cameras) == ["entrance"]
        assert len(list((out / "footage").glob("*/video.json"))) == 1


def test_posts_are_left_out_with_a_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody walks past a post, which the detector takes for a person but is not sure of."""
    post = np.array([[250, 20, 290, 140]], np.float32)

    def detect(pixels: np.ndarray) -> Detections:
        people = DETECTOR.detect(pixels)
        return Detections(np.concatenate([people.xyxy, post]), np.append(people.confidence, np.float32(0.6)))

    path = write_lossless(tmp_path / "x.mkv", walk(4))
    out = tmp_path / "shop.gallery"
    with open_or_create_index(out, embedder().contract, footage_folder(str(out))) as gallery:
        update = index_footage(gallery, [path], embedder(), Detector("doubtful", detect))
    assert update.videos[0].appearances == 1
    assert update.videos[0].left_out == {"never moves, and the detector doubts it": 1}
    assert any("no person: never moves, and the detector doubts it" in message for message in caplog.messages)


def test_a_post_that_takes_over_a_track_is_left_out(tmp_path: Path) -> None:
    """Somebody vanishes behind a post, which the detector takes for a person now and then."""
    post = np.array([[201, 30, 241, 150]], np.float32)  # where the person is last seen, after 2.6 seconds

    def detect(pixels: np.ndarray) -> Detections:
        people = DETECTOR.detect(pixels)
        return people if len(people.xyxy) else Detections(post, np.array([0.4], np.float32))

    path = write_lossless(tmp_path / "x.mkv", [*walk(3.1, [("red", 0.5, 3.1)]), *walk(3, [])])
    out = tmp_path / "shop.gallery"
    with open_or_create_index(out, embedder().contract, footage_folder(str(out))) as gallery:
        update = index_footage(gallery, [path], embedder(), Detector("doubtful", detect))
        (seen,) = {
            appearance.key: appearance for item in gallery.items() if (appearance := Footage(gallery).find(item.path))
        }.values()
    assert update.videos[0].left_out == {"stays at a place where the detector doubts it": 1}
    assert 2.9 <= seen.video_end <= 3.2


def test_wrong_input(video: Path, tmp_path: Path) -> None:
    out = tmp_path / "shop.gallery"
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    with open_or_create_index(out, embedder().contract, footage_folder(str(out))) as gallery:

        def refuse(paths: list[Path], message: str, **options: str) -> None:
            with pytest.raises(InputError, match=message):
                index_footage(gallery, paths, embedder(), DETECTOR, **options)  # type: ignore[arg-type]

        refuse([tmp_path / "none.mp4"], "no such file or folder")
        refuse([tmp_path / "empty"], "no videos in this folder")
        refuse([tmp_path / "text.mp4"], "none of 1 videos can be read; the first: .*not a video")
        refuse([video, tmp_path / "text.mp4"], "one time for 2 videos", start="2026-01-31T12:00")
        refuse([video], "not a time", start="noon")
        refuse([video], "visible characters", camera="\n")
