"""Runs a whole command of `bot` in a process of its own, kills it at a random moment, and runs it to its end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING
from unittest import mock

from .harness import Fell, Finished, check_finished

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence
    from pathlib import Path

# The process of a command is a fork of this one, with these imported: it starts in milliseconds, and the kill meets its
# work and not the imports of PyTorch.
PRELOADED = (
    "torch",
    "torch._dynamo",
    "torch.export._trace",
    "torch.onnx._internal.exporter._compat",
    "torchvision",
    "onnx",
    "onnxscript",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "torch.utils.tensorboard",
    "av",
    "cv2",
    "trackers",
    "bot_deploy.train.loop",
    "bot_deploy.export.pipeline",
    "bot_deploy.demos.app",
)
POLL_S = 0.001  # between two looks at a folder
MAX_MORE_S = 0.01  # from a change in the folder to the kill
GROUP_TIMEOUT_S = 15  # for the helpers of a killed command to end
MAX_TRIES = 6  # of a kill that comes too late; each is earlier


def preload() -> None:
    """Imports what the commands import. PyTorch runs nothing in this process, whose threads a fork would lack."""
    from bot_deploy.telemetry import without_telemetry
    from bot_deploy.video.opencv import configure_opencv

    configure_opencv()
    with without_telemetry():
        for name in ("onnxruntime", *PRELOADED):
            with contextlib.suppress(ImportError):
                import_module(name)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def start(words: Sequence[object], log: Path, clock_s: float = 0.0, before: Callable[[], object] | None = None) -> int:
    """Starts `bot` with `words` as a process of a new group; returns its ID.

    Its stdout and stderr go to `log` with .out and .err. Its clock is `clock_s` ahead. `before` runs in it first.
    """
    preload()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        for number, suffix in ((1, ".out"), (2, ".err")):
            opened = os.open(log.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(opened, number)
            os.close(opened)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        if before:
            before()
        now, now_ns = time.time, time.time_ns
        with contextlib.ExitStack() as patches:
            if clock_s:
                patches.enter_context(mock.patch("time.time", side_effect=lambda: now() + clock_s))
                patches.enter_context(mock.patch("time.time_ns", side_effect=lambda: now_ns() + int(clock_s * 1e9)))
            code = _run(words)
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _run(words: Sequence[object]) -> int:
    import traceback

    from bot_deploy.cli import main

    try:
        main([str(word) for word in words])
    except SystemExit as ended:
        return int(str(ended.code or 0))
    except BaseException:  # noqa: BLE001 - a defect of the product, which the parent finds in the text
        traceback.print_exc()
        return 1
    return 0


def finish(
    words: Sequence[object], log: Path, clock_s: float = 0.0, before: Callable[[], object] | None = None
) -> Finished:
    """Runs `bot` with `words` to its end; raises Fell for a traceback, an odd exit code or unsafe text."""
    _, status = os.waitpid(start(words, log, clock_s, before), 0)
    texts = [log.with_suffix(suffix).read_text(errors="replace") for suffix in (".out", ".err")]
    finished = Finished(os.waitstatus_to_exitcode(status), *texts)
    # A command may print more lines than a refusal.
    check_finished(finished, as_json="--json" in map(str, words), max_lines=200)
    return finished


def kill(
    words: Sequence[object],
    log: Path,
    seconds: float,
    rng: random.Random,
    folder: Path,
    before: Callable[[], object] | None = None,
) -> bool:
    """Starts `bot` with `words` and ends it with SIGKILL after a random part of `seconds`.

    In half of the cases, the kill waits for the next change in `folder` and follows it at once: most of the time, a
    command writes nothing. Returns whether the command was still running.
    """
    child = start(words, log, 0.0, before)
    ended = False
    end = time.monotonic() + rng.uniform(0, seconds)
    after_change = rng.random() < 0.5
    more_s = rng.uniform(0, MAX_MORE_S) * (rng.random() < 0.7)
    while not ended and time.monotonic() < end:
        time.sleep(POLL_S)
        ended = bool(os.waitpid(child, os.WNOHANG)[0])
    seen = contents(folder)
    while after_change and not ended and contents(folder) == seen:
        time.sleep(POLL_S)
        ended = bool(os.waitpid(child, os.WNOHANG)[0])
    if not ended:
        time.sleep(more_s)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        ended = not os.WIFSIGNALED(status)
    wait_for_group(child)
    return not ended


def kill_surely(
    words: Sequence[object],
    log: Path,
    seconds: float,
    rng: random.Random,
    folder: Path,
    again: Callable[[], object],
    before: Callable[[], object] | None = None,
) -> bool:
    """Kills as `kill` does until a kill comes before the end of the command; `again` runs between two tries."""
    for number in range(MAX_TRIES):
        if number:
            again()
        started = time.monotonic()
        if kill(words, log, seconds, rng, folder, before):
            return True
        seconds = 0.8 * min(seconds, time.monotonic() - started)
    return False


def contents(folder: Path) -> list[tuple[str, int, int, int]]:
    """Name, size, time and inode of every file below `folder`."""
    found = []
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                state = os.stat(os.path.join(place, name))  # noqa: PTH116, PTH118 - called a thousand times a second
                found.append((name, state.st_size, state.st_mtime_ns, state.st_ino))
    return sorted(found)


def wait_for_group(leader: int) -> None:
    """Waits for the other processes of a command that was killed; raises Fell if one goes on."""
    end = time.monotonic() + GROUP_TIMEOUT_S
    while time.monotonic() < end:
        try:
            os.killpg(leader, 0)
        except ProcessLookupError:
            return
        time.sleep(POLL_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    raise Fell(f"a helper of the killed command still runs after {GROUP_TIMEOUT_S} s")
