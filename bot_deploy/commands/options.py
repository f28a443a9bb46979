"""Options that several verbs share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bot_deploy.choices import DEVICES

if TYPE_CHECKING:
    from collections.abc import Callable

RUNTIME_OPTIONS = (
    click.option(
        "--device", type=click.Choice(DEVICES), default="auto", show_default=True, help="Device that runs the model."
    ),
    click.option(
        "--threads", type=click.IntRange(min=0), default=0, help="Number of CPU threads; default: all available."
    ),
    click.option(
        "--batch", type=click.IntRange(min=0), default=0, help="Images per run; default: the backend's own choice."
    ),
)


def runtime(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --device, --threads and --batch, which `open_embedder` takes."""
    for option in reversed(RUNTIME_OPTIONS):
        verb = option(verb)
    return verb
