"""`bot` as a person runs it: in a process of its own."""

from __future__ import annotations

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
