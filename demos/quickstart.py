"""`make quickstart`: the whole job on synthetic people, by the commands a person would type.

Draws the people, trains a small model from scratch, exports and verifies it, matches, and sums up.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from bot_deploy import console, gallery, runs, synthetic
from bot_deploy.choices import SYNTHETIC
from bot_deploy.datasets import open_dataset
from bot_deploy.embedder import open_embedder
from bot_deploy.errors import BotError, RunError
from bot_deploy.matching import match
from bot_deploy.reports import montage

SHOWN_QUERIES = 5
SHOWN_MATCHES = 8


def run(*arguments: str | Path) -> dict[str, Any]:
    """Runs `bot` with `arguments`, showing the command; returns what it printed with --json."""
    words = [str(argument) for argument in arguments]
    click.secho(f"$ bot {' '.join(words)}", bold=True, err=True)
    done = subprocess.run(  # noqa: S603 - our own command line
        [sys.executable, "-m", "bot_deploy", *words], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise RunError(f"`bot {words[0]}` failed with exit code {done.returncode}; its message stands above")
    return json.loads(done.stdout) if "--json" in words else {}


def quickstart(out: Path, overrides: tuple[str, ...]) -> str:
    """Does it all into the folder `out` and returns the summary."""
    started = time.perf_counter()
    people = synthetic.cached_dataset()
    settings = [word for override in overrides for word in ("--set", override)]
    run("train", "--data", SYNTHETIC, "--recipe", "synthetic", "--out", out, *settings)
    parity = run("export", out, "--json")["parity"]
    model = out / "model.onnx"
    scores = run("eval", model, "--data", SYNTHETIC, "--json")
    first = min((people / "query").iterdir())
    found = run("match", first, people / "bounding_box_test", "--model", model, "--top", "5", "--json")
    picture = rank_lists(model, people / "bounding_box_test", out / "ranks.png")
    with (out / "metrics.csv").open(encoding="utf-8") as file:
        untrained = next(csv.DictReader(file))
    matches = "\n".join(f"    {m['rank']}  {m['score']:.3f}  {Path(m['path']).name}" for m in found["matches"])
    crops = len(open_dataset(SYNTHETIC).train)
    return f"""
synthetic people: {crops} crops to train on, {scores["queries"]} queries, {scores["gallery"]} in the gallery

                     rank-1     mAP
  untrained model    {float(untrained["rank1"]):6.1f}  {float(untrained["mAP"]):6.1f}
  trained, exported  {scores["rank1"]:6.1f}  {scores["mAP"]:6.1f}

parity of the export with PyTorch on {parity["crops"]} crops, in batches of {", ".join(map(str, parity["batches"]))}
  min cosine {parity["min_cosine"]:.7f} (at least {parity["tolerance"]["min_cosine"]}), \
mean cosine {parity["mean_cosine"]:.7f}
  max abs error {parity["max_abs_error"]:.1e}, max norm error {parity["max_norm_error"]:.1e}
  nearest neighbour the same for {100 * parity["top1_agreement"]:.1f} %, of the ten nearest \
{100 * parity["top10_agreement"]:.1f} %
  {"passed" if parity["passed"] else "FAILED"}

{first.name} looks like
{matches}

  model       {model}
  rank lists  {picture}
  curves      {out / "curves.png"}
{time.perf_counter() - started:.0f} seconds. Next: bot match YOUR_QUERY.jpg YOUR_GALLERY/ --model {model}"""


def rank_lists(model: Path, folder: Path, picture: Path) -> Path:
    """Draws the rank lists of a few queries; as in the protocol, what a query's own camera saw is left out."""
    embedder, dataset = open_embedder(model), open_dataset(SYNTHETIC)
    people, _ = gallery.open_folder_gallery(folder, embedder)
    rankings = []
    for query in dataset.query[:: max(1, len(dataset.query) // SHOWN_QUERIES)][:SHOWN_QUERIES]:
        path = Path(str(query.path))
        rankings.append(match.match(path, people, embedder, SHOWN_MATCHES, exclude_cameras=[query.camera]))
    people.close()
    montage.write_montage(rankings, picture)
    return picture


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run; a new one under runs/ by default.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the recipe.")
def main(out: Path | None, overrides: tuple[str, ...]) -> None:
    """Synthetic people, a trained model, a verified export and a first match."""
    console.show_library_output()
    try:
        click.echo(quickstart(out or runs.new_folder("quickstart"), overrides))
    except BotError as error:
        click.echo(f"quickstart: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
