"""Ctrl-C at random moments: one line and exit code 130, and never a traceback."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from helpers.commands import run_python

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")

MOMENTS = 4  # for each command
# `bot`, with a line on stderr when its own code begins. Before, a Ctrl-C is Python's: about 30 ms, without any of ours.
BOT = """
from bot_deploy import interrupts
interrupts.handle_interrupts()
import os
os.write(2, b"begins\\n")
from bot_deploy.__main__ import main
main()
"""


def commands(model: Path, checkpoint: Path, people: Path, out: Path) -> dict[str, list[object]]:
    query = sorted((people / "query").iterdir())[0]
    return {
        "help": ["--help"],
        "match": ["match", query, people / "bounding_box_test", "--model", model, "--json"],
        "index": ["index", people / "bounding_box_test", "-o", out / "x.gallery", "--model", model],
        "eval": ["eval", checkpoint, "--data", people],  # imports PyTorch
        "export": ["export", checkpoint, "--data", people, "--out", out],
        "synthetic": ["synthetic", out / "people", "--train-identities", 6, "--test-identities", 6],  # has processes
        "demo": ["demo", "--source", people / "query", "--headless", "--model", model, "--output", out / "x.mp4"],
    }


def interrupt(arguments: list[object], delay: float, cwd: Path) -> tuple[int, str]:
    """The exit code and stderr of `bot` with a Ctrl-C after `delay` seconds, for it and its processes."""
    process = subprocess.Popen(
        [sys.executable, "-c", BOT, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        start_new_session=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "begins\n"
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    return process.returncode, stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["help", "match", "index", "eval", "export", "synthetic", "demo"])
def test_random_moments(command: str, onnx_file: Path, checkpoint_file: Path, few_people: Path, tmp_path: Path) -> None:
    arguments = commands(onnx_file, checkpoint_file, few_people, tmp_path)[command]
    started = time.perf_counter()
    done = run_python("-c", BOT, *arguments, cwd=tmp_path)
    duration = time.perf_counter() - started
    assert done.returncode == 0, done.stderr
    seed = random.randrange(1000)
    moments = random.Random(seed)
    for number in range(MOMENTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        run = commands(onnx_file, checkpoint_file, few_people, folder)[command]
        delay = 0.0 if number == 0 else moments.uniform(0, duration)
        code, stderr = interrupt(run, delay, folder)
        assert "Traceback" not in stderr, (seed, number, stderr)
        assert "Exception ignored" not in stderr, (seed, number, stderr)
        if code == 0:  # at or after the end; or the demo, which ends well
            assert "interrupted" not in stderr
        else:
            assert code == 130, (seed, number, stderr)
            assert stderr.count("bot: interrupted\n") == 1
            assert stderr.endswith("bot: interrupted\n")


@pytest.mark.parametrize("quiet", [True, False])
def test_semaphores_that_a_killed_pool_leaves_are_freed_without_a_word(quiet: bool) -> None:
    start = "from contextlib import nullcontext\nimport multiprocessing\nfrom bot_deploy import interrupts\n"
    context = "interrupts.quiet_resource_tracker" if quiet else "nullcontext"
    lock = f"with {context}():\n    lock = multiprocessing.get_context('spawn').Lock()\n"
    done = run_python("-c", f"{start}{lock}interrupts.exit_now()")
    assert done.returncode == 130
    # Without it, Python warns: else this test would show nothing.
    assert (done.stderr == "bot: interrupted\n") == quiet, done.stderr


@pytest.mark.parametrize(
    "before",
    [
        "import bot_deploy.embedder as module",  # something of ours
        "",
    ],
)
def test_a_module_that_swallows_the_interrupt_in_its_import(before: str, tmp_path: Path) -> None:
    (tmp_path / "swallowing.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException:\n    pass\n"
    )
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from bot_deploy import interrupts
interrupts.handle_interrupts()
interrupts.start_work()
{before}
import swallowing
print("goes on")
"""
    done = run_python("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "bot: interrupted\n")


def test_an_interrupt_in_a_destructor_is_not_lost() -> None:
    code = """
import os, signal, time
from bot_deploy import interrupts
interrupts.handle_interrupts()
interrupts.start_work()
class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
Swallows()
print("goes on")
"""
    done = run_python("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "bot: interrupted\n")


def test_a_second_ctrl_c_ends_what_still_cleans_up() -> None:
    code = """
import os, signal, time
from bot_deploy import interrupts
interrupts.handle_interrupts()
interrupts.start_work()
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
finally:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
"""
    done = run_python("-c", code)
    assert (done.returncode, done.stderr) == (130, "bot: interrupted\n")


def test_a_background_job_goes_on_ignoring_ctrl_c() -> None:
    code = """
import os, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from bot_deploy import interrupts
interrupts.handle_interrupts()
os.kill(os.getpid(), signal.SIGINT)
print("goes on")
"""
    done = run_python("-c", code)
    assert (done.returncode, done.stdout) == (0, "goes on\n")
