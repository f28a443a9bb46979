r"""Attacks the installed product and prints what it stood: damaged files, odd names and numbers, and kills.

python benchmarks/attack.py --seed 1 --count 2000 --kills 50

`--kills 50` kills `bot train`, `index` and `demo` 50 times each, and `calibrate` and `export` 20 times. The column
"refused" says of kills how often the command was still running; a kill that comes too late is tried again, earlier.

An attack fails if it ends with a traceback, a signal, no end, another exit code than 0, 1, 2, 3 or 130, more than a few
lines of messages, a damaged input that passes for right, or a lost row. Each one has its own random numbers:
`--seed 1 --kind pictures --first 17 --count 1` repeats the attack 17 of kind `pictures` alone.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
from attacks import artifacts, kills, names, numbers, pictures, races, special_files, stores
from attacks.command_process import preload
from attacks.harness import TIMEOUT_S, Outcome, generator, peak_mib, run
from attacks.material import Material

KINDS = {
    "pictures": pictures.ATTACKS,
    "artifacts": artifacts.ATTACKS,
    "stores": stores.ATTACKS,
    "names": names.ATTACKS,
    "special files": special_files.ATTACKS,
    "numbers": numbers.ATTACKS,
    "races": races.ATTACKS,
    "kills": kills.ATTACKS,
}
# The share of --count that each kind gets; a picture is decoded in a millisecond, a command takes tenths of a second.
SHARES = {
    "pictures": 1.0,
    "artifacts": 0.3,
    "stores": 0.2,
    "names": 0.03,
    "special files": 0.02,
    "numbers": 0.1,
    "races": 0.02,
}
KILL_SHARES = {"train": 1.0, "index": 1.0, "demo": 1.0, "calibrate": 0.4, "export": 0.4}
TIMEOUTS_S = {"races": kills.TIMEOUT_S, "kills": kills.TIMEOUT_S}  # of one attack that runs several whole commands
PRELOADING = {"artifacts", "special files"}  # kinds that import PyTorch, which counts in no attack
MAX_SHOWN = 10  # failures that are printed in full


@dataclass
class Tally:
    """The results of one name of attack."""

    tried: int = 0
    refused: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome, where: str) -> None:
        self.tried += 1
        self.refused += outcome.refused
        self.seconds += outcome.seconds
        if outcome.failure:
            self.failures.append(f"{where}: {outcome.failure}")


def plan(kind: str, seed: int, count: int, killed: int) -> list[str]:
    """The name of each attack of `kind`, by number."""
    if kind == "kills":
        return [name for name, share in KILL_SHARES.items() for _ in range(round(share * killed))]
    names_of_kind = list(KINDS[kind])
    return [generator(seed, kind, number).choice(names_of_kind) for number in range(count)]


def attack_in_this_process(kind: str, seed: int, todo: list[str], first: int, log: Path) -> None:
    """Runs the attacks of `kind` from number `first`; writes a line to `log` before each, and its outcome after it."""
    os.environ["XDG_CACHE_HOME"] = str(log.parent / "cache")
    if kind in PRELOADING:
        preload()
    with log.open("a") as lines:
        material = Material(Path(tempfile.mkdtemp(dir=log.parent)))
        for number in range(first, len(todo)):
            lines.write(json.dumps({"begins": number}) + "\n")
            lines.flush()
            rng = generator(seed, kind, number)
            rng.random()  # the first number chose the name
            timeout_s = TIMEOUTS_S.get(kind, TIMEOUT_S)
            outcome = run(KINDS[kind][todo[number]], todo[number], rng, material, timeout_s)
            lines.write(json.dumps({"number": number, "peak_mib": peak_mib(), **asdict(outcome)}) + "\n")
            lines.flush()


def attack_in_a_child(
    kind: str, seed: int, todo: list[str], first: int, folder: Path
) -> tuple[dict[str, Tally], float]:
    """The results by name, and the peak memory in MiB; a child that dies is replaced from the next attack on."""
    tallies: dict[str, Tally] = {}
    peak = 0.0
    timeout_s = 2 * TIMEOUTS_S.get(kind, TIMEOUT_S)
    while first < len(todo):
        log = folder / f"{kind}-{first}.jsonl"
        program = [sys.executable, __file__, "--child", str(log), "--kind", kind, "--seed", str(seed)]
        (folder / "todo.json").write_text(json.dumps(todo))
        with (folder / f"{kind}.txt").open("ab") as messages:
            child = subprocess.Popen([*program, "--first", str(first)], stdout=messages, stderr=messages)
            hung = not finishes(child, log, timeout_s)
        begun = -1
        for line in log.read_text().splitlines() if log.exists() else ():
            record = json.loads(line)
            begun = record.get("begins", begun)
            if "number" in record:
                peak = max(peak, record.pop("peak_mib"))
                number = record.pop("number")
                tallies.setdefault(todo[number], Tally()).add(Outcome(**record), f"{kind} {number}")
                first = number + 1
        if first < len(todo):  # the child did not survive the attack `first`
            reason = "hang" if hung else f"ended by signal or exit code {child.returncode}"
            if begun < first:
                messages_text = (folder / f"{kind}.txt").read_text()[-2000:]
                raise click.ClickException(f"the attacks of {kind} cannot begin: {messages_text}")
            tallies.setdefault(todo[first], Tally()).add(Outcome(todo[first], False, reason), f"{kind} {first}")  # noqa: FBT003
            first += 1
    return tallies, peak


def finishes(child: subprocess.Popen[bytes], log: Path, timeout_s: float) -> bool:
    """Waits for `child`; kills it when its log has not grown for `timeout_s` and returns False."""
    size, since = -1, time.monotonic()
    while child.poll() is None:
        time.sleep(0.1)
        now = log.stat().st_size if log.exists() else 0
        if now != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > timeout_s:
            child.kill()
            child.wait()
            return False
    return True


def print_table(results: dict[str, tuple[dict[str, Tally], float]]) -> None:
    print("| kind | attack | tried | refused | failed | seconds | peak MiB |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for kind, (tallies, peak) in results.items():
        for name, tally in sorted(tallies.items()):
            cells = (kind, name, f"{tally.tried:,}", f"{tally.refused:,}", len(tally.failures), round(tally.seconds))
            print(f"| {' | '.join(map(str, cells))} | {peak:.0f} |")


@click.command()
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Number that all attacks follow from."
)
@click.option(
    "--count",
    type=click.IntRange(0),
    default=1000,
    show_default=True,
    help="Damaged pictures; other kinds get a share.",
)
@click.option(
    "--kills",
    "killed",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    help="Kills of train, index and demo; calibrate and export get 40 %.",
)
@click.option(
    "--kind", "chosen", type=click.Choice(list(KINDS)), multiple=True, help="Only this kind; may be repeated."
)
@click.option("--first", type=click.IntRange(0), default=0, help="First attack of a kind, to repeat one.")
@click.option("--child", type=click.Path(path_type=Path), hidden=True)
def main(seed: int, count: int, killed: int, chosen: tuple[str, ...], first: int, child: Path | None) -> None:
    """Prints a table of attacks; exits with 1 if one failed."""
    if child:
        todo = json.loads((child.parent / "todo.json").read_text())
        attack_in_this_process(chosen[0], seed, todo, first, child)
        return
    results = {}
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        for kind in chosen or KINDS:
            number = count if chosen and first else round(SHARES.get(kind, 0) * count)
            todo = plan(kind, seed, first + number, killed)
            if first < len(todo):
                results[kind] = attack_in_a_child(kind, seed, todo, first, Path(folder))
    failures = [failure for tallies, _ in results.values() for tally in tallies.values() for failure in tally.failures]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, seed {seed}")
    print_table(results)
    tried = sum(tally.tried for tallies, _ in results.values() for tally in tallies.values())
    print(f"\n{tried:,} attacks, {len(failures)} failed")
    for reason, times in Counter(failure.partition(": ")[2][:90] for failure in failures).most_common():
        print(f"{times:6d}  {reason}")
    for failure in failures[:MAX_SHOWN]:
        print(failure)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
