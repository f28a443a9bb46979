"""`bot synthetic`."""

from __future__ import annotations

from pathlib import Path

import click

DATASET_OPTIONS = ("train_identities", "test_identities", "images_per_camera")
CLIP_OPTIONS = ("people", "cameras", "seconds", "fps", "height", "groups", "changing_light")


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--train-identities", default=120, show_default=True, help="Number of identities to train on.")
@click.option("--test-identities", default=60, show_default=True, help="Number of identities in query and gallery.")
@click.option(
    "--images-per-camera",
    default=4,
    show_default=True,
    help="Number of crops of each identity from each camera that sees it, 2 to 100.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the random numbers; it selects the people.")
@click.option(
    "--clip",
    is_flag=True,
    help="Draw a clip instead of crops: a video for each camera, the ground truth and a gallery.",
)
@click.option(
    "--people", default=8, show_default=True, help="Number of people in the clip, 1 to 60; all are test identities."
)
@click.option("--cameras", default=2, show_default=True, help="Number of cameras that film the clip, 1 to 6.")
@click.option("--seconds", default=20.0, show_default=True, help="Length of the clip in seconds, 0.1 to 3600.")
@click.option("--fps", default=25, show_default=True, help="Frames per second of the clip, 1 to 60.")
@click.option(
    "--height", default=540, show_default=True, help="Height of a 16:9 frame in pixels, 180 to 1080 and even."
)
@click.option("--groups", default=0.0, show_default=True, help="Share of people who walk in twos and threes, 0 to 1.")
@click.option(
    "--changing-light", is_flag=True, help="Change the light of each camera with time: people return in another one."
)
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
    groups: float,
    changing_light: bool,
) -> None:
    """Draw synthetic pedestrians into the folder OUT: crops in Market-1501 layout, or a clip.

    With --clip, test identities of the same seed walk past several cameras at the same time. OUT gets the videos
    cam1.mp4, cam2.mp4, ..., the identity and box of each person on each frame in truth.csv, and crops of each person
    in gallery/, for `bot demo --source OUT/cam2.mp4 --gallery OUT/gallery`.
    """
    from bot_deploy.console import say
    from bot_deploy.progress import progress_counter
    from bot_deploy.synthetic import generate_clip, generate_dataset

    _reject_options(context, DATASET_OPTIONS if clip else CLIP_OPTIONS, clip=clip)
    with progress_counter("drawing a clip" if clip else "drawing synthetic pedestrians") as progress:
        if clip:
            generate_clip(
                out,
                people=people,
                cameras=cameras,
                seconds=seconds,
                fps=fps,
                height=height,
                groups=groups,
                changing_light=changing_light,
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


def _reject_options(context: click.Context, parameters: tuple[str, ...], *, clip: bool) -> None:
    """Raise an error for a given option that would have no effect, because it probably is a mistake."""
    from click.core import ParameterSource

    from bot_deploy.errors import InputError

    for parameter in parameters:
        if context.get_parameter_source(parameter) is not ParameterSource.DEFAULT:
            option = f"--{parameter.replace('_', '-')}"
            raise InputError(f"{option} has no effect with --clip" if clip else f"{option} needs --clip")
