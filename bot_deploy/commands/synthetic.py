"""`bot synthetic`."""

from __future__ import annotations

from pathlib import Path

import click

CROPS = ("train_identities", "test_identities", "images_per_camera")
CLIP = ("people", "cameras", "seconds", "fps", "height")


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--train-identities", default=120, show_default=True)
@click.option("--test-identities", default=60, show_default=True)
@click.option("--images-per-camera", default=4, show_default=True, help="Of each identity.")
@click.option("--seed", default=0, show_default=True)
@click.option("--clip", is_flag=True, help="Instead of crops: a video for each camera, the truth and a gallery.")
@click.option("--people", default=8, show_default=True, help="In the clip; of the test identities.")
@click.option("--cameras", default=2, show_default=True, help="That film the clip, 1 to 6.")
@click.option("--seconds", default=20.0, show_default=True, help="Of the clip.")
@click.option("--fps", default=25, show_default=True, help="Frames a second of the clip.")
@click.option("--height", default=540, show_default=True, help="Of a frame in pixels; it is 16:9.")
@click.pass_context
def synthetic(
    context: click.Context,
    out: Path,
    train_identities: int,
    test_identities: int,
    images_per_camera: int,
    seed: int,
    clip: bool,
    people: int,
    cameras: int,
    seconds: float,
    fps: int,
    height: int,
) -> None:
    """Draw synthetic pedestrians into the folder OUT: crops in Market-1501 layout, or a clip.

    With --clip: the test identities of the same seed walk past several cameras at once, filmed as cam1.mp4, cam2.mp4,
    ...; truth.csv tells who is where on which frame, and gallery/ holds crops of each for
    `bot demo --source OUT/cam2.mp4 --gallery OUT/gallery`.
    """
    from bot_deploy.console import say
    from bot_deploy.progress import progress_counter
    from bot_deploy.synthetic import generate_clip, generate_dataset

    _refuse(context, CROPS if clip else CLIP, clip=clip)
    with progress_counter("filming synthetic pedestrians" if clip else "drawing synthetic pedestrians") as progress:
        if clip:
            generate_clip(
                out,
                people=people,
                cameras=cameras,
                seconds=seconds,
                fps=fps,
                height=height,
                seed=seed,
                progress=progress,
            )
        else:
            generate_dataset(
                out,
                train_identities=train_identities,
                test_identities=test_identities,
                images_per_camera=images_per_camera,
                seed=seed,
                progress=progress,
            )
    say(f"wrote {out}")


def _refuse(context: click.Context, options: tuple[str, ...], *, clip: bool) -> None:
    """An option that would do nothing is a mistake."""
    from click.core import ParameterSource

    from bot_deploy.errors import InputError

    for name in options:
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} is of crops, not of a clip" if clip else f"{option} needs --clip")
