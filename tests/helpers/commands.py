"""`bot` as a person runs it: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple


class Printed(NamedTuple):
    """What a command left on the terminal."""

    code: int
    out: str
    err: str


# Every import of one of NAMES fails with a traceback, also where an ImportError would be caught.
REFUSE_IMPORTS = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in NAMES:
            raise RuntimeError(f"imports {name} too early")

NAMES = %r
sys.meta_path.insert(0, Refuse())
"""
IN_TURN = """
import contextlib, io, json, os, sys, traceback
from bot_deploy import cli

for folder, words in json.loads(sys.argv[1]):
    os.chdir(folder)
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    code = 0
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            cli.main(words)
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
    print(json.dumps([code, *(stream.buffer.getvalue().decode() for stream in streams)]))
"""


def run_python(
    *arguments: object, cwd: Path | None = None, timeout_s: float | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs Python with `arguments` and with `environment` added to this process's own; fails after `timeout_s`."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=timeout_s,
    )


def run_bot(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `bot` with `arguments`; exit code, stdout and stderr are in the result."""
    return run_python("-m", "bot_deploy", *arguments, cwd=cwd, **environment)


def run_in_process_of_bot(
    before: str, *arguments: object, cwd: Path | None = None, timeout_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs `bot` with `arguments`, after the Python code `before` in the same process."""
    return run_python(
        "-c", f"{before}\nfrom bot_deploy.__main__ import main\nmain()", *arguments, cwd=cwd, timeout_s=timeout_s
    )


def run_in_turn(
    commands: list[tuple[Path, list[str]]], *, without: tuple[str, ...], timeout_s: float | None = None
) -> list[Printed]:
    """Runs commands of `bot`, each in its folder, in one process in which the modules `without` cannot be imported.

    Many commands that end early are so tested in the time of one start of Python.
    """
    given = json.dumps([(str(folder), words) for folder, words in commands])
    done = run_python("-c", REFUSE_IMPORTS % (without,) + IN_TURN, given, timeout_s=timeout_s)
    assert done.returncode == 0, done.stderr
    return [Printed(*json.loads(line)) for line in done.stdout.splitlines()]
