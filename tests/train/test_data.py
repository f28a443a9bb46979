"""The memory that training data may use, and the allocator's settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bot_deploy.train import allocator, data

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(("limit", "memory"), [("1000000\n", 1_000_000), ("max\n", MACHINE), (None, MACHINE)])
def test_a_containers_limit_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, memory: int
) -> None:
    file = tmp_path / "memory.max"
    if limit:
        file.write_text(limit)
    monkeypatch.setattr(data, "CONTAINER_LIMIT_FILE", file)
    assert data._available_memory() == memory


def test_processes_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = data._available_memory()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert data._available_memory() == whole // 4


def test_a_system_that_does_not_report_its_memory_gets_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(data.os, "sysconf", unknown)
    assert data._available_memory() == 0


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
    allocator.keep_freed_memory()  # no mallopt: nothing to do, and no error
