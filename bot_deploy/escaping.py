"""Names of files and people are foreign text: here they become harmless on terminals, in JSON and in tables."""

from __future__ import annotations

import json
import re

# The start of a cell of a spreadsheet, whichever of comma, semicolon, tab and line break it takes for a separator.
# Spreadsheets pass over blanks and quotation marks, and some read the wide forms of the signs as the signs.
FORMULA = re.compile(
    r"(?P<separator>^|[,;|\t\r\n])(?P<blank>(?:[^\S\t\r\n]|[\"'])*)(?P<sign>[=+\-@\uff1d\uff0b\uff0d\uff20])"
)
NUMBER = re.compile(r"-?\d+(\.\d*)?(e[+-]?\d+)?(?=$|[,;|\t\r\n])", re.IGNORECASE)


def escape(text: str) -> str:
    r"""`text` on one line, with \x1b, \n, \u202e and so on for what is no visible character.

    These are line breaks, control characters, those that change the direction of writing, invisible ones, and bytes
    that are no text.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def json_line(document: object) -> str:
    """`document` as JSON on one line, with visible characters only; a reader gets every character back."""
    line = json.dumps(document, ensure_ascii=False)
    if line.isprintable():
        return line
    return "".join(character if character.isprintable() else json.dumps(character)[1:-1] for character in line).replace(
        "\x7f", r"\u007f"
    )


def safe_cell(text: str, prefix: str = "'") -> str:
    """`text` as a cell of a .csv file that no spreadsheet runs as a formula; numbers stay as they are.

    A formula at the start gets `prefix`. One after a separator gets an apostrophe, because a spreadsheet that takes
    semicolons for separators would begin a cell there.
    """

    def disarm(match: re.Match[str]) -> str:
        if NUMBER.match(match.string, match.start("sign")) and not match["blank"]:
            return match[0]
        mark = "'" if match.start() or match["separator"] or match["blank"] else prefix
        return f"{match['separator']}{mark}{match['blank']}{match['sign']}"

    return FORMULA.sub(disarm, prefix + text if text.startswith(("\t", "\r", "\n")) else text)
