"""`bot env`."""

from __future__ import annotations

import click

from .options import DEVICE, JSON


@click.command()
@DEVICE
@JSON
def env(device: str, as_json: bool) -> None:
    """Show what this machine has: driver, GPUs, packages, and on which devices models run.

    Each runtime is tried. The exit code is 1 if no model runs on the device, so that a script or a container can check
    itself: `bot env --device cuda`.
    """
    from bot_deploy.console import show, show_json
    from bot_deploy.environment import examine
    from bot_deploy.errors import RunError

    environment = examine()
    if as_json:
        show_json(environment.to_dict())
    else:
        show(*environment.text_lines())
    if not environment.runs_on(device):
        raise RunError(f"nothing runs on {device} here; the table says what is missing", parameter="device")
