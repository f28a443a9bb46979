"""The memory that training data may use, and the settings of the process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.commands import run_python

from bot_deploy.train import cpu_settings, data

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
    monkeypatch.setattr(cpu_settings.ctypes, "CDLL", lambda _: object())
    cpu_settings.keep_freed_memory()  # no mallopt: nothing to do, and no error


@pytest.mark.parametrize("fast", [True, False])
def test_tiny_numbers_count_as_zero_in_every_thread(fast: bool) -> None:
    program = f"""
import torch
from bot_deploy.train.cpu_settings import speed_up_cpu
torch.set_num_threads(2)
if {fast}:
    speed_up_cpu()
tiny = torch.full((1 << 22,), 1e-30)  # shared by all threads
print(int((tiny * 1e-10).view(torch.int32).count_nonzero()))
"""
    done = run_python("-c", program)
    assert int(done.stdout) == (0 if fast else 1 << 22), done.stderr
