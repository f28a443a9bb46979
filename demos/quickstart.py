"""`make quickstart`: train, export and match on synthetic people, with the same commands as a user types.

Generates the people, trains a small model from scratch, exports and verifies it, matches, and prints a summary.
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
    """Runs `bot` with `arguments` and shows the command; returns the document of --json, or {} without --json."""
    command = [str(argument) for argument in arguments]
    click.secho(f"$ bot {' '.join(command)}", bold=True, err=True)
    result = subprocess.run(  # noqa: S603 - our own command line
        [sys.executable, "-m", "bot_deploy", *command], stdout=subprocess.PIPE, text=True, check=False
    )
    if result.returncode:
        raise RunError(f"`bot {command[0]}` failed with exit code {result.returncode}; see its message above")
    return json.loads(result.stdout) if "--json" in command else {}


def quickstart(out: Path, overrides: tuple[str, ...]) -> str:
    """Runs all steps with results in the folder `out`; returns the summary."""
    started = time.perf_counter()
    people = synthetic.cached_dataset()
    settings = [word for override in overrides for word in ("--set", override)]
    run("train", "--data", SYNTHETIC, "--recipe", "synthetic", "--out", out, *settings)
    parity = run("export", out, "--json")["parity"]
    model = out / "model.onnx"
    scores = run("eval", model, "--data", SYNTHETIC, "--json")
    query = min((people / "query").iterdir())
    result = run("match", query, people / "bounding_box_test", "--model", model, "--top", "5", "--json")
    picture = rank_lists(model, people / "bounding_box_test", out / "ranks.png")
    with (out / "metrics.csv").open(encoding="utf-8") as file:
        untrained = next(csv.DictReader(file))
    matches = "\n".join(f"    {m['rank']}  {m['score']:.3f}  {Path(m['path']).name}" for m in result["matches"])
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

{query.name} looks like
{matches}

  model       {model}
  rank lists  {picture}
  curves      {out / "curves.png"}
{time.perf_counter() - started:.0f} seconds. Next: bot match YOUR_QUERY.jpg YOUR_GALLERY/ --model {model}"""


def rank_lists(model: Path, folder: Path, picture: Path) -> Path:
    """Draws the rank lists of a few queries without crops of the query's own camera, as in the protocol."""
    embedder, dataset = open_embedder(model), open_dataset(SYNTHETIC)
    people, _ = gallery.open_folder_gallery(folder, embedder)
    rankings = []
    for query in dataset.query[:: max(1, len(dataset.query) // SHOWN_QUERIES)][:SHOWN_QUERIES]:
        path = Path(str(query.path))
        rankings.append(match.match(path, people, embedder, SHOWN_MATCHES, exclude_cameras=[query.camera]))
    people.close()
    montage.write_rank_list_figure(rankings, picture)
    return picture


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run; default: a new one under runs/.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Key of the recipe and its new value.")
def main(out: Path | None, overrides: tuple[str, ...]) -> None:
    """Train, export and match on synthetic people."""
    console.show_library_output()
    try:
        console.show(str(quickstart(out or runs.new_folder("quickstart"), overrides)))
    except BotError as error:
        console.say(f"quickstart: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
