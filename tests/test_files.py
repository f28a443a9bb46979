"""What cannot be written is refused before work begins, in the words with which writing would fail."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from bot_deploy.errors import InputError, RunError
from bot_deploy.export.exported_model import unverified_path
from bot_deploy.files import check_writable, delete_leftovers, prepare_output, read_bounded, write_atomically

if TYPE_CHECKING:
    from pathlib import Path


def test_a_folder_for_the_output_is_made_and_nothing_in_it(tmp_path: Path) -> None:
    prepare_output(tmp_path / "new" / "deep" / "X.PNG", "a picture", {".png"})
    assert list((tmp_path / "new" / "deep").iterdir()) == []
    (tmp_path / "there.png").write_bytes(b"before")
    prepare_output(tmp_path / "there.png", "a picture", {".png"})
    assert (tmp_path / "there.png").read_bytes() == b"before"


@pytest.mark.parametrize("name", ["ranks", "ranks.txt", ".png"])
def test_another_kind_of_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r": a picture ends in \.jpg, \.png$"):
        prepare_output(tmp_path / "new" / name, "a picture", {".png", ".jpg"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [("file/x.png", "File exists"), ("file/new/x.png", "Not a directory"), ("folder.png", "it is a folder")],
)
def test_no_place_for_the_output(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(RunError) as caught:
        prepare_output(tmp_path / name, "a picture", {".png"})
    assert str(caught.value) == f"{tmp_path / name}: cannot be written ({reason})"


def test_a_missing_folder_and_a_protected_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "none" / "x"
    with pytest.raises(RunError) as early:
        check_writable(missing)
    with pytest.raises(RunError) as late:
        write_atomically(missing, lambda temporary: temporary.write_bytes(b"x"))
    assert str(early.value) == str(late.value) == f"{missing}: cannot be written (No such file or directory)"
    protected = tmp_path / "x"
    protected.touch()
    monkeypatch.setattr("os.access", lambda path, mode: path != protected)  # root may write to any
    with pytest.raises(RunError, match=r"x: cannot be written \(it is write-protected\)"):
        check_writable(protected)


def test_leftovers_of_killed_programs_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    old, mine = ended.pid, os.getpid()
    leftovers = {f".unverified.{old}.model.onnx", f".unverified.{old}.model.engine.json", f".m.{old}.tmp"}
    kept = {f".unverified.{mine}.model.onnx", f".m.{mine}.tmp", "model.onnx", ".hidden", f"m.{old}.tmp", ".a.tmp"}
    for name in leftovers | kept:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / f".folder.{old}.tmp").mkdir()
    delete_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept | {f".folder.{old}.tmp"}


def test_the_next_write_deletes_what_a_killed_one_left(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from bot_deploy.files import write_atomically
def write(path):
    path.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
write_atomically(Path(sys.argv[1]), write)
"""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"before")
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == -9
    assert path.read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 2
    write_atomically(path, lambda temporary: temporary.write_bytes(b"after"))
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("model.onnx", b"after")]


def test_a_temporary_file_of_yesterday_belongs_to_nobody(tmp_path: Path) -> None:
    """Containers give each program the same process ID."""
    old = tmp_path / f".m.{os.getpid()}.tmp"
    old.write_bytes(b"")
    os.utime(old, (0, 0))
    delete_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_export_deletes_what_a_killed_export_left(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from bot_deploy.export.exported_model import unverified_path
with unverified_path(Path(sys.argv[1]) / "model.onnx") as path:
    path.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    with unverified_path(tmp_path / "model.onnx"):
        assert list(tmp_path.iterdir()) == []


def test_what_is_no_regular_file_or_too_large_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    assert read_bounded(tmp_path / "file", 10) == b"0123456789"
    with pytest.raises(OSError, match="larger than 0 MiB"):
        read_bounded(tmp_path / "file", 9)
    with pytest.raises(OSError, match="not a regular file"):
        read_bounded(tmp_path, 10)
