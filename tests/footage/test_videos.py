"""Camera and clock of a video, from its name, its folder and its metadata."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot_deploy.footage.times import format_position, parse_position
from bot_deploy.footage.videos import (
    FIRST_NAMED_CAMERA,
    camera_number,
    find_camera,
    find_start,
    find_videos,
    fingerprint,
    folder_name,
    holds_footage,
)

NOON = 1_769_860_800.0  # 2026-01-31 12:00:00 UTC


@pytest.mark.parametrize(
    ("path", "camera"),
    [
        ("entrance.mp4", "entrance"),
        ("shop/entrance_2026-01-31_12-00-00.mp4", "entrance"),
        ("yard/20260131_120000.mp4", "yard"),
        ("yard/VID_20260131_120000.mp4", "yard"),
        ("yard/0001.mp4", "yard"),
        ("yard/x_cam3.mp4", "cam3"),
        ("cam_2/door.mp4", "cam_2"),
        ("a/back door 2.mkv", "back door 2"),
    ],
)
def test_the_camera_of_a_name(path: str, camera: str) -> None:
    assert find_camera(Path("/recordings") / path, None).value == camera
    assert find_camera(Path("/recordings") / path, "till").value == "till"


def test_numbers_of_cameras() -> None:
    known: dict[str, int] = {}
    for name, number in (
        ("cam3", 3),
        ("7", 7),
        ("cam_b", 2),
    ):
        known[name] = camera_number(name, known)
        assert known[name] == number, name
    # Of other names, the number follows from the name.
    named = {name: camera_number(name, {}) for name in ("till", "yard", "123456")}
    assert len(set(named.values())) == 3
    assert min(named.values()) >= FIRST_NAMED_CAMERA
    assert max(named.values()) < 2**31
    assert camera_number("till", known) == named["till"]
    assert camera_number("till", {"till": 5}) == 5  # as an older version numbered it
    assert camera_number("till", {"other": named["till"]}) == named["till"] + 1


def test_the_clock() -> None:
    named, plain = Path("x_2026-01-31_12-00-00.mp4"), Path("x.mp4")
    metadata = {"creation_time": "2026-01-31T13:00:00.000000Z"}
    assert find_start(named, metadata, None) == (NOON, "from its name")
    assert find_start(plain, metadata, None) == (NOON + 3600, "from its metadata")
    assert find_start(named, metadata, "2026-01-31T14:00+01:00") == (NOON + 3600, "as given")
    for nothing in ({}, {"creation_time": "1970-01-01T00:00:00Z"}, {"creation_time": "today"}):
        assert find_start(plain, nothing, None) == (None, "unknown")


def test_positions() -> None:
    assert [parse_position(text) for text in ("00:12:31", "12:31.5", "751", "1:00:00")] == [751, 751.5, 751, 3600]
    assert [parse_position(text) for text in ("", "noon", "1:2:3:4", "-3", "1::2")] == [None] * 5
    assert [format_position(seconds) for seconds in (0, 751.9, 360_000)] == ["00:00:00", "00:12:31", "100:00:00"]


def test_files_and_folders(tmp_path: Path) -> None:
    for name in ("yard/a.mp4", "yard/sub/b.MKV", "yard/notes.txt", "yard/.hidden.mp4", "crops/1.jpg", "crops/c.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    yard = tmp_path / "yard"
    assert find_videos([yard, yard / "a.mp4"]) == [yard / "a.mp4", yard / "sub" / "b.MKV"]
    assert [holds_footage(tmp_path / name) for name in ("yard", "yard/a.mp4", "crops", "crops/1.jpg", "none")] == [
        *(True, True, False, False, False)
    ]
    (tmp_path / "copy.mp4").write_bytes(b"yard/a.mp4")
    digest = fingerprint(yard / "a.mp4")
    assert fingerprint(tmp_path / "copy.mp4") == digest
    (yard / "a.mp4").write_bytes(b"yard/a.mp4 and more")
    assert fingerprint(yard / "a.mp4") != digest
    assert folder_name(yard / "a.mp4", digest) != folder_name(tmp_path / "b" / "a.mp4", "0" * 32)
    assert folder_name(Path("/x/Eingang Süd!.mp4"), digest).startswith("Eingang_S_d-")
