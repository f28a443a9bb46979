"""`make quickstart`: the commands that a user types, on synthetic people.

Searches with the built-in model, fine-tunes it on the people, exports and verifies it, and shows both.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from bot_deploy import console, gallery, runs
from bot_deploy.datasets import open_dataset
from bot_deploy.embedder import open_embedder
from bot_deploy.errors import BotError, RunError
from bot_deploy.matching import match
from bot_deploy.models import box
from bot_deploy.progress import progress_counter
from bot_deploy.reports import montage
from bot_deploy.synthetic import generate_dataset

# Half as many as `synthetic` has, so that all of it takes about two minutes on two slow cores.
TRAIN_IDENTITIES, TEST_IDENTITIES = 50, 25
SHOWN_QUERIES = 5
SHOWN_MATCHES = 5
# Of the recipe `quick`: one epoch at a low learning rate, because the model has learned already.
FINE_TUNING = ("epochs=1", "warmup_epochs=0", "milestones=[]", "lr=2e-4", "eval_every=0")


def run(*arguments: str | int | Path) -> dict[str, Any]:
    """Runs `bot` with `arguments` and shows the command; returns the document of --json, or {} without --json."""
    command = [str(argument) for argument in arguments]
    click.secho(f"$ bot {' '.join(command)}", bold=True, err=True)
    result = subprocess.run(  # noqa: S603 - our own command line
        [sys.executable, "-m", "bot_deploy", *command], stdout=subprocess.PIPE, text=True, check=False
    )
    if result.returncode:
        raise RunError(f"`bot {command[0]}` failed with exit code {result.returncode}; see its message above")
    return json.loads(result.stdout) if "--json" in command else {}


def quickstart(out: Path, overrides: tuple[str, ...], train_identities: int, test_identities: int) -> str:
    """Runs all steps with results in the folder `out`; returns the summary."""
    started = time.perf_counter()
    people, model, index = out / "people", out / "model.onnx", out / "people.gallery"
    out.mkdir(parents=True, exist_ok=True)
    with progress_counter("drawing synthetic pedestrians") as progress:
        generate_dataset(people, train_identities=train_identities, test_identities=test_identities, progress=progress)
    query, crops = min((people / "query").iterdir()), people / "bounding_box_test"
    run("index", crops, "-o", index, "--model", box.NAME)
    before_match = run("match", query, index, "--model", box.NAME, "--top", SHOWN_MATCHES, "--json")
    before = run("eval", box.NAME, "--data", people, "--json")

    settings = [word for override in (*FINE_TUNING, *overrides) for word in ("--set", override)]
    # --compatible-with: its people stay where the built-in model has them, which suits a training of minutes.
    start = ("--weights", box.NAME, "--compatible-with", box.NAME)
    run("train", "--data", people, "--recipe", "quick", *start, "--out", out, *settings)
    parity = run("export", out, "--json")["parity"]
    after_match = run("match", query, crops, "--model", model, "--top", SHOWN_MATCHES, "--json")
    after = run("eval", model, "--data", people, "--json")
    picture = rank_lists(model, people, out / "ranks.png")
    return f"""
synthetic people: {len(open_dataset(people).train)} crops to train on, {before["queries"]} queries, \
{before["gallery"]} in the gallery

                              rank-1     mAP
  built-in model              {before["rank1"]:6.1f}  {before["mAP"]:6.1f}
  fine-tuned on these people  {after["rank1"]:6.1f}  {after["mAP"]:6.1f}

parity of the export with PyTorch on {parity["crops"]} crops: {"passed" if parity["passed"] else "FAILED"}
  min cosine {parity["min_cosine"]:.7f} (at least {parity["tolerance"]["min_cosine"]}), \
nearest neighbour the same for {100 * parity["top1_agreement"]:.1f} %

{query.name} looks like
  built-in model
{_match_lines(before_match)}
  fine-tuned
{_match_lines(after_match)}

  model       {model}
  rank lists  {picture}
  curves      {out / "curves.png"}
{time.perf_counter() - started:.0f} seconds. Next: bot match YOUR_QUERY.jpg YOUR_GALLERY/ --model {box.NAME}"""


def _match_lines(document: dict[str, Any]) -> str:
    return "\n".join(f"    {m['rank']}  {m['score']:.3f}  {Path(m['path']).name}" for m in document["matches"])


def rank_lists(model: Path, people: Path, picture: Path) -> Path:
    """Draws the rank lists of a few queries without crops of the query's own camera, as in the protocol."""
    embedder, dataset = open_embedder(model), open_dataset(people)
    crops, _ = gallery.open_folder_gallery(people / "bounding_box_test", embedder)
    with crops:
        rankings = [
            match.match(Path(str(query.path)), crops, embedder, SHOWN_MATCHES, exclude_cameras=[query.camera])
            for query in dataset.query[:: max(1, len(dataset.query) // SHOWN_QUERIES)][:SHOWN_QUERIES]
        ]
    montage.write_rank_list_figure(rankings, picture)
    return picture


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run; default: a new one under runs/.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Key of the recipe and its new value.")
@click.option("--train-identities", type=int, default=TRAIN_IDENTITIES, show_default=True, help="People to train on.")
@click.option("--test-identities", type=int, default=TEST_IDENTITIES, show_default=True, help="People to search for.")
def main(out: Path | None, overrides: tuple[str, ...], train_identities: int, test_identities: int) -> None:
    """Match, fine-tune and export on synthetic people."""
    console.show_library_output()
    try:
        folder = out or runs.new_folder("quickstart")
        console.show(*quickstart(folder, overrides, train_identities, test_identities).splitlines())
    except BotError as error:
        console.say(f"quickstart: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
