"""`bot synthetic`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--train-identities", default=120, show_default=True)
@click.option("--test-identities", default=60, show_default=True)
@click.option("--images-per-camera", default=4, show_default=True, help="Of each identity.")
@click.option("--seed", default=0, show_default=True)
def synthetic(out: Path, train_identities: int, test_identities: int, images_per_camera: int, seed: int) -> None:
    """Draw synthetic pedestrians into the folder OUT, in Market-1501 layout."""
    from bot_deploy.progress import count, say
    from bot_deploy.synthetic import generate

    with count("drawing synthetic pedestrians") as progress:
        generate(
            out,
            train_identities=train_identities,
            test_identities=test_identities,
            images_per_camera=images_per_camera,
            seed=seed,
            progress=progress,
        )
    say(f"wrote {out}")
