"""Options that several verbs share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bot_deploy.choices import DEVICES

if TYPE_CHECKING:
    from collections.abc import Callable

OPTIONS = (
    click.option(
        "--device", type=click.Choice(DEVICES), default="auto", show_default=True, help="What runs the model."
    ),
    click.option("--threads", type=click.IntRange(min=0), default=0, help="Of the CPU; all that are there by default."),
    click.option(
        "--batch", type=click.IntRange(min=0), default=0, help="Images run at once; the backend's by default."
    ),
)


def runtime(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --device, --threads and --batch, as `open_embedder` takes them."""
    for option in reversed(OPTIONS):
        verb = option(verb)
    return verb
