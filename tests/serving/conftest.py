"""Pictures that the tests of the service send."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def pictures(people: Path) -> list[Path]:
    """Two crops of each of the people in the gallery, one after the other."""
    files = sorted((people / "bounding_box_test").glob("*.jpg"))
    names = list(dict.fromkeys(file.name[:4] for file in files if file.name[:4].isdigit() and int(file.name[:4])))
    return [file for name in names for file in [one for one in files if one.name[:4] == name][:2]]
