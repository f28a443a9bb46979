"""`bot export`."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path

import click


@click.command()
@click.argument("source", metavar="[RUN|CKPT]", required=False, type=click.Path(path_type=Path))
@click.option("--data", help="Crops to verify on; what the model was trained on by default.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write to; the run's own by default.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def export(source: Path | None, data: str | None, out: Path | None, as_json: bool) -> None:
    """Export the model of a RUN folder or CKPT file (the newest run by default) to ONNX, and verify it.

    The exit code is 3 when its embeddings differ from PyTorch's; it is then kept as model.onnx.rejected.
    """
    from bot_deploy import checkpoint, runs
    from bot_deploy.datasets import JOINT, SYNTHETIC, open_merged
    from bot_deploy.errors import ParityError
    from bot_deploy.export.verified import export_onnx
    from bot_deploy.progress import say

    if source is None:
        source = runs.newest("model.pt", "`bot train` makes a run")
        say(f"exporting {source}")
    if source.is_dir():
        source = source / "model.pt"
    if data is None:
        data = checkpoint.load(source).data
        if not all(name == SYNTHETIC or Path(name).exists() for name in data.split(JOINT)):
            say(f"{data}, which it was trained on, is not here; verifying on synthetic people (--data names others)")
            data = SYNTHETIC
    done = export_onnx(source, out or source.parent, open_merged(data.split(JOINT)))
    say(f"parity with PyTorch on {data}:\n{done.parity.table()}")
    if as_json:
        click.echo(jsonlib.dumps({"model": str(done.path), "data": data, "parity": done.parity.to_dict()}))
    if not done.parity.passed:
        raise ParityError(f"the export differs from PyTorch; it was kept as {done.path} and must not be used")
    say(f"wrote {done.path}")
