"""Addresses of cameras and servers: read from places that `ps` does not show, and shown without their secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path

from bot_deploy.errors import InputError

MASK = "***"
MAX_ADDRESS_BYTES = 65536
# An address of which every part is understood. No part has an "@" of its own: a password may stand before it.
ADDRESS = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://"
    r"(?:(?P<user>[^\s/?#@;=&\\]*)@)?"
    r"(?P<host>(?:[\w.-]+|\[[0-9a-f:.%]+\])(?::\d{1,5})?)"
    r"(?P<path>(?:/[^\s?#@;=&\\]*)?)"
    r"(?P<rest>[?#;=&][^@]*)?",
    re.IGNORECASE | re.DOTALL,
)
# What begins like an address, in a text.
IN_TEXT = re.compile(r"(?<![\w.+-])[a-z][a-z0-9+.-]+:/\S*", re.IGNORECASE)
CLOSING = ".,:;!)]}>'\""  # punctuation of the text around an address


def mask_address(address: str) -> str:
    """`address` as it may be shown: scheme, host, port and path; a path of a file stays as it is.

    User and password and everything after "?", "#", ";", "=" or "&" become ***; so does the whole of an address that
    is not understood.
    """
    match = ADDRESS.fullmatch(address)
    if match:
        user = f"{MASK}@" if match["user"] is not None else ""
        rest = f"{match['rest'][0]}{MASK}" if match["rest"] else ""
        return f"{match['scheme']}://{user}{match['host']}{match['path']}{rest}"
    scheme = re.match(r"([a-z][a-z0-9+.-]+:)(/*)", address, re.IGNORECASE)
    has_user = ":" in address.rpartition("@")[0]
    if scheme and (scheme[2] or has_user):
        return f"{scheme[1]}{scheme[2]}{MASK}" if scheme[2] else MASK
    return MASK if has_user else address


def mask_addresses(text: str) -> str:
    """`text` with every address in it as `mask_address` shows it."""
    if ":/" not in text:
        return text

    def mask(match: re.Match[str]) -> str:
        address = match[0].rstrip(CLOSING)
        return mask_address(address) + match[0][len(address) :]

    return IN_TEXT.sub(mask, text)


def read_address(text: str) -> str:
    """The address that `text` names: `env:NAME` is in an environment variable, `@FILE` in a file, others are one.

    Raises:
        InputError: no such variable, no such file, or nothing in it.
    """
    if text.startswith("env:"):
        address = os.environ.get(text.removeprefix("env:"), "").strip()
        if not address:
            raise InputError(f"{text}: this environment variable is not set, or empty; it holds an address")
        return address
    if text.startswith("@"):
        try:
            with Path(text[1:]).open("rb") as file:
                lines = file.read(MAX_ADDRESS_BYTES).decode(errors="surrogateescape").split("\n")
        except (OSError, ValueError) as error:
            raise InputError(f"{text}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
        address = lines[0].strip()
        if not address:
            raise InputError(f"{text}: the first line of this file is empty; it holds an address")
        return address
    return text
