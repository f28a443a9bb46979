"""The NVIDIA driver, as a stand-in of its library answers."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from bot_deploy import driver
from bot_deploy.driver import Driver, Gpu, find_driver

WORDS = {35: b"CUDA driver version is insufficient", 100: b"no CUDA-capable device is detected", 999: None}


class Library:
    """libcuda with one H100, whose functions fail as told. As in C, results are written to where pointers point."""

    def __init__(self, **failures: int) -> None:
        self.failures, self.count = failures, 1

    def cuDriverGetVersion(self, version: object) -> int:  # noqa: N802 - the names are the driver's
        version._obj.value = 13000
        return self.failures.get("version", 0)

    def cuInit(self, flags: int) -> int:  # noqa: N802
        assert flags == 0
        return self.failures.get("init", 0)

    def cuDeviceGetCount(self, count: object) -> int:  # noqa: N802
        count._obj.value = self.count
        return 0

    def cuDeviceGet(self, device: object, index: int) -> int:  # noqa: N802
        device._obj.value = 7 + index  # a handle, not the index
        return 0

    def cuDeviceGetName(self, name: ctypes.Array[ctypes.c_char], size: int, device: ctypes.c_int) -> int:  # noqa: N802
        assert (len(name), device.value) == (size, 7)
        name.value = b"NVIDIA H100 80GB HBM3"
        return 0

    def cuDeviceTotalMem_v2(self, memory: object, device: ctypes.c_int) -> int:  # noqa: N802
        memory._obj.value = 85_520_809_984  # over four bytes
        return self.failures.get("memory", 0)

    def cuDeviceGetAttribute(self, value: object, attribute: int, device: ctypes.c_int) -> int:  # noqa: N802
        value._obj.value = {75: 9, 76: 0, 16: 132}[attribute]
        return 0

    def cuGetErrorString(self, error: int, text: object) -> int:  # noqa: N802
        text._obj.value = WORDS[error]
        return 0


@pytest.fixture(autouse=True)
def _version_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "version"
    file.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC 12.3\n")
    monkeypatch.setattr(driver, "VERSION_FILE", file)


def test_versions_and_gpus() -> None:
    gpu = Gpu("NVIDIA H100 80GB HBM3", "sm90", 132, 85_520_809_984)
    assert find_driver(Library()) == Driver("580.65.06", "13.0", (gpu,), "")


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ({"version": 35}, Driver("580.65.06", "", (), "CUDA driver version is insufficient")),
        ({"init": 100}, Driver("580.65.06", "13.0", (), "no CUDA-capable device is detected")),
        ({"memory": 999}, Driver("580.65.06", "13.0", (), "error 999 of the driver")),
    ],
)
def test_a_failure_is_in_the_words_of_the_driver(failures: dict[str, int], expected: Driver) -> None:
    assert find_driver(Library(**failures)) == expected


def test_gpus_that_are_hidden() -> None:
    library = Library()
    library.count = 0
    assert find_driver(library).failure == "no GPU is visible to CUDA"


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LIBRARY", "libno_such_driver.so.1")
    monkeypatch.setattr(driver, "VERSION_FILE", Path("/no/such/file"))
    assert find_driver() == Driver(failure="no NVIDIA driver: libno_such_driver.so.1 is not on this machine")
