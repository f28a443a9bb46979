"""The contract in an OpenVINO IR, a pair of files .xml and .bin, read and replaced without the runtime.

The .xml describes the graph; the contract and the SHA-256 of the .bin, which has the weights, are in its `rt_info`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from bot_deploy.errors import InputError
from bot_deploy.files import read_bounded, write_atomically

from .contract import Contract, from_json

if TYPE_CHECKING:
    from pathlib import Path

SECTION = "bot_deploy"  # of rt_info
CONTRACT, WEIGHTS_SHA256 = "contract", "weights_sha256"  # names in it
MAX_XML_BYTES, MAX_BIN_BYTES = 64 << 20, 8 << 30
REMEDY = "wrap the model again with `bot wrap`"


def weights_path(path: Path) -> Path:
    """The file with the weights of the graph `path`."""
    return path.with_suffix(".bin")


def read_contract(path: Path) -> Contract:
    """The contract in the IR at `path`.

    Raises:
        InputError: damaged, no contract, or another .bin beside it than the one it was written with.
    """
    values = _section(_parse(path), path)
    contract = from_json(_value(values, CONTRACT, path), str(path))
    weights = weights_path(path)
    try:
        sha256 = hashlib.sha256(read_bounded(weights, MAX_BIN_BYTES)).hexdigest()
    except FileNotFoundError:
        raise InputError(f"{path}: {weights.name} is not beside it; copy both files") from None
    except OSError as error:
        raise InputError(f"{weights}: cannot be read ({error.strerror or error})") from None
    if sha256 != _value(values, WEIGHTS_SHA256, path):
        raise InputError(f"{path}: {weights.name} is not the file that it was written with; {REMEDY}")
    return contract


def write_contract(path: Path, contract: Contract) -> None:
    """Replaces the contract in the IR at `path`; graph and weights stay as they are."""
    read_contract(path)
    net = _parse(path)
    _section(net, path)[CONTRACT].set("value", contract.to_json())
    write_atomically(path, ET.ElementTree(net).write)


def seal(path: Path, contract: Contract) -> None:
    """Adds `contract` and the hash of the weights to the IR at `path`, which OpenVINO wrote."""
    net = _parse(path)
    info = net.find("rt_info")
    info = ET.SubElement(net, "rt_info") if info is None else info
    for old in info.findall(SECTION):
        info.remove(old)
    section = ET.SubElement(info, SECTION)
    sha256 = hashlib.sha256(weights_path(path).read_bytes()).hexdigest()
    for name, value in ((CONTRACT, contract.to_json()), (WEIGHTS_SHA256, sha256)):
        ET.SubElement(section, name, value=value)
    write_atomically(path, ET.ElementTree(net).write)


def _parse(path: Path) -> ET.Element:
    try:
        data = read_bounded(path, MAX_XML_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:  # an IR has none; entities could expand to any size
        raise InputError(f"{path}: not an OpenVINO IR, because it defines XML entities; it is refused")
    try:
        net = ET.fromstring(data)  # noqa: S314 - without entities
    except (ET.ParseError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        raise InputError(f"{path}: not an OpenVINO IR, or damaged ({error})") from None
    if net.tag != "net":
        raise InputError(f"{path}: not an OpenVINO IR")
    return net


def _section(net: ET.Element, path: Path) -> dict[str, ET.Element]:
    section = net.find(f"rt_info/{SECTION}")
    if section is None:
        raise InputError(f"{path}: no contract inside; `bot wrap` makes a model with one from it")
    return {element.tag: element for element in section}


def _value(values: dict[str, ET.Element], name: str, path: Path) -> str:
    value = values[name].get("value") if name in values else None
    if value is None:
        raise InputError(f"{path}: its contract is damaged ({name} is missing); {REMEDY}")
    return value
