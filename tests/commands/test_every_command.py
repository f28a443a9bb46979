"""No command is forgotten by the tests that run all commands."""

from __future__ import annotations

from helpers.command_lines import COMMAND_LINES, WITHOUT_A_MODEL

from bot_deploy import cli


def test_every_command_has_a_row_or_opens_no_model() -> None:
    commands = {line.split()[0] for line in COMMAND_LINES.values()}
    assert commands | WITHOUT_A_MODEL == {name for name, (place, _) in cli.COMMANDS.items() if place != "nowhere:fail"}
    assert not commands & WITHOUT_A_MODEL
