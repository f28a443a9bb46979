"""Runs one attack and judges the product: it refused, it accepted, or it fell."""

from __future__ import annotations

import contextlib
import io
import json
import random
import signal
import sys
import time
import traceback
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from bot_deploy.errors import BotError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .material import Material

    Attack = Callable[[random.Random, Material], bool]  # returns whether the input was refused; raises Fell

T = TypeVar("T")
EXIT_CODES = {0, 1, 2, 3, 130}
MAX_STDERR_LINES = 20  # messages name up to ten files, then a count
MAX_MESSAGE = 4000  # characters
TIMEOUT_S = 60  # of one attack; a longer one hangs


class Fell(Exception):  # noqa: N818 - not an error of the attack
    """The product did not stand an attack; the message says how."""


class Hang(BaseException):
    """An attack took longer than its time."""


@dataclass(frozen=True)
class Outcome:
    """What one attack led to."""

    name: str
    refused: bool
    failure: str = ""  # how the product fell; "" if it stood
    seconds: float = 0.0


def run(attack: Attack, name: str, rng: random.Random, material: Material, timeout_s: int = TIMEOUT_S) -> Outcome:
    """Runs one attack; whatever it raises is a failure of the product."""
    started = time.perf_counter()
    refused, failure = False, ""
    try:
        with time_limit(timeout_s):
            refused = attack(rng, material)
    except Fell as fall:
        failure = str(fall)
    except Hang:
        failure = f"hang of more than {timeout_s} s"
    except Exception as error:  # noqa: BLE001 - a traceback for the user
        where = traceback.extract_tb(error.__traceback__)[-1]
        failure = f"{type(error).__name__}: {str(error)[:150]} at {where.filename}:{where.lineno}"
    return Outcome(name, refused, failure, time.perf_counter() - started)


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raises Hang in the block after `seconds`; a block that never returns to Python is ended by the parent process."""

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refuses(action: Callable[[], T]) -> T | None:
    """The result of `action`, or None if it raised an error of the product, whose message is one short line."""
    try:
        return action()
    except BotError as error:
        check_message(str(error))
        return None


def check_message(message: str) -> None:
    """Raises Fell unless `message` of an error is one short line."""
    if "\n" in message or len(message) > MAX_MESSAGE or not message:
        raise Fell(f"no short line: {message[:200]!r}")


@dataclass(frozen=True)
class Finished:
    """What a command of `bot` left."""

    code: int
    stdout: str
    stderr: str

    def document(self) -> Any:
        """The JSON document on stdout; raises Fell if there is another text, NaN or infinity."""

        def refuse(number: str) -> float:
            raise Fell(f"{number} in the JSON document")

        try:
            return json.loads(self.stdout, parse_constant=refuse)
        except ValueError:
            raise Fell(f"no JSON document: {self.stdout[:200]!r}") from None


def bot(*arguments: object) -> Finished:
    """Runs `bot` in this process as its main function does, and checks exit code, stderr and terminal."""
    from bot_deploy import cli

    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    code: object = 0
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = ended.code or 0
    texts = [stream.buffer.getvalue().decode(errors="replace") for stream in streams]  # type: ignore[attr-defined]
    finished = Finished(int(str(code)), *texts)
    check_finished(finished, as_json="--json" in map(str, arguments))
    return finished


def check_finished(finished: Finished, *, as_json: bool, max_lines: int = MAX_STDERR_LINES) -> None:
    """Raises Fell for a traceback, an odd exit code, a long stderr, control characters, or JSON that is none."""
    if finished.code not in EXIT_CODES:
        raise Fell(f"exit code {finished.code}; {finished.stderr[-200:]!r}")
    if "Traceback (most recent" in finished.stderr:
        raise Fell(f"traceback: {finished.stderr.strip().splitlines()[-1][:200]}")
    lines = finished.stderr.splitlines()
    if len(lines) > max_lines:
        raise Fell(f"{len(lines)} lines on stderr, such as {lines[-2][:150]!r}")
    if finished.code in {1, 2} and not finished.stderr.strip():
        raise Fell("an exit code without a message")
    for text in (finished.stderr, "" if as_json else finished.stdout):
        if odd := unsafe_characters(text):
            raise Fell(f"raw {odd} on the terminal")
    if as_json and finished.code in {0, 3}:
        finished.document()


def unsafe_characters(text: str) -> str:
    """The first control or bidirectional character in `text` that a terminal would act on, as U+XXXX; else ""."""
    for character in text:
        if character not in "\n\t\r" and unicodedata.category(character) in {"Cc", "Cf"}:
            return f"U+{ord(character):04X}"
    return ""


def generator(seed: int, kind: str, number: int) -> random.Random:
    """The random numbers of one attack: an attack can be repeated alone."""
    return random.Random(f"{seed}/{kind}/{number}")


def peak_mib() -> float:
    """The most memory that this process has had, in MiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)
