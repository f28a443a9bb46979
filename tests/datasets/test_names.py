"""Identity, camera and time in the names of files and folders."""

from __future__ import annotations

from typing import Any

import pytest

from bot_deploy.datasets.names import CropMetadata, parse_market_name, parse_name, parse_time


@pytest.mark.parametrize(
    ("path", "info"),
    [
        ("0002_c1s1_000451_03.jpg", ("0002", 1, 451)),
        ("bounding_box_test/-1_c6s3_000001_01.jpg", ("-1", 6, 1)),
        ("0005_c2_f0046302.jpg", ("0005", 2, None)),
        ("alice/cam3_7.jpg", ("alice", 3, None)),
        ("alice/c3/7.jpg", ("alice", 3, None)),
        ("camera_4/7.jpg", (None, 4, None)),
        ("gallery/x.jpg", (None, None, None)),
        ("2026-01-31/x.jpg", (None, None, None)),
        ("door/2026-01-31_12-30-05.jpg", ("door", None, 1769862605)),
        ("20260131T123005_c2.png", (None, 2, 1769862605)),
        ("20269931T993005.png", (None, None, None)),
        ("x.jpg", (None, None, None)),
        ("alice/001_c1.jpg", ("alice", 1, None)),  # a number of the picture, not of a person
        ("alice/0002_c1s1_000451_03.jpg", ("0002", 1, 451)),
        ("alice/0005_c2_f0046302.jpg", ("0005", 2, None)),
        ("query/0002_c1.jpg", ("0002", 1, None)),
        ("0002_c1.jpg", ("0002", 1, None)),
        ("20260131_c2_0007.jpg", (None, 2, None)),  # a day
        ("cam_20260131120000123456.jpg", (None, None, None)),
        ("alice/c123456_1.jpg", ("alice", None, None)),
        ("b\udcff/x.jpg", ("b�", None, None)),
    ],
)
def test_names(path: str, info: tuple[Any, ...]) -> None:
    assert parse_name(path) == CropMetadata(*info)


def test_times() -> None:
    assert parse_time("451") == 451
    assert parse_time("1970-01-01T00:01") == parse_time("1970-01-01T01:01+01:00") == 60
    for text in ("noon", "nan", "1e999"):
        with pytest.raises(ValueError, match=text):
            parse_time(text)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("0001_c1s1_001051_00.jpg", ("0001", 1)),
        ("-1_c1s1_001051_00.jpg", ("-1", 1)),
        ("0000_c6s1_001051_00.jpg", ("0000", 6)),
        ("1501_c3.png", ("1501", 3)),
        ("0005_c2_f0046302.jpg", ("0005", 2)),
        ("alice.jpg", None),
        ("x0001_c1s1.jpg", None),
        ("0001.jpg", None),
        ("0001_c123456.jpg", None),
    ],
)
def test_market_names(name: str, label: tuple[str, int] | None) -> None:
    assert parse_market_name(name) == label
