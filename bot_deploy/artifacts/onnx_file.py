"""What an .onnx file says about itself, read before any runtime opens it.

The file is one protocol buffer: fields of a tag and a payload, nested. Only the ways to the metadata and to weights
in other files are walked; all else is skipped unread, so neither the size of a file nor what it claims to hold matters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot_deploy.errors import InputError
from bot_deploy.files import write_atomically

from .contract import METADATA_KEY, Contract, from_json

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

# message -> field -> the message in it, from onnx.proto: the ways to the metadata and to every tensor
INSIDE = {
    "model": {7: "graph", 14: "metadata", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "metadata": {},  # entries, of a key and a value
    "external": {},
}
METADATA = 14  # the field of a model that holds an entry
KEY, VALUE = 1, 2  # the fields of an entry
VARINT, LENGTH = 0, 2  # kinds of payload
FIXED = {1: 8, 5: 4}  # bytes of the other kinds
# Thirty times what a ResNet-50 has, and still read in two seconds.
MOST_FIELDS = 300_000
MOST_TEXT = 16 << 20  # bytes


def read_contract(path: Path) -> Contract:
    """The contract in the ONNX model at `path`, which is checked as by `metadata`.

    Raises:
        InputError: as `metadata`, or there is no contract, or none that this runtime understands.
    """
    found = metadata(path)
    if METADATA_KEY not in found:
        raise InputError(f"{path}: no contract inside; only models written by `bot export` say how to be fed")
    return from_json(found[METADATA_KEY], str(path))


def metadata(path: Path) -> dict[str, str]:
    """The `metadata_props` of the ONNX model at `path`, which is whole and keeps no weights outside its folder.

    Raises:
        InputError: not ONNX, damaged or truncated; or weights in a file outside its folder, or in one that is missing.
    """
    try:
        with path.open("rb") as file:
            found, locations = _walk(file, path.stat().st_size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise InputError(f"{path}: not an ONNX model, or damaged ({error}); export it again") from None
    folder = path.parent.resolve()
    for location in sorted(locations):
        try:
            weights = (folder / location).resolve()
            missing = not weights.is_file()
        except (OSError, ValueError, RuntimeError):  # a null byte, an endless name, a circle of links
            raise InputError(f"{path}: keeps weights in {location[:80]!r}, which is no file name") from None
        if not weights.is_relative_to(folder):
            raise InputError(f"{path}: wants to read {location!r}, outside its own folder; it is refused")
        if missing:
            raise InputError(f"{path}: keeps weights in {location!r}, which is not beside it; copy both")
    return found


def _walk(file: BinaryIO, size: int) -> tuple[dict[str, str], set[str]]:
    """Metadata, and the locations of external weights, in the model that fills `file`.

    Raises:
        ValueError: why it is no model.
    """
    found: dict[str, str] = {}
    locations: set[str] = set()
    entry: dict[int, str] = {}
    graphs, text = 0, 0
    within = [("model", size)]  # the messages that the next field lies in, and where each ends
    for _ in range(MOST_FIELDS):
        while within and file.tell() == within[-1][1]:
            message, _ = within.pop()
            graphs += message == "graph"
            if message == "metadata":
                found[entry.get(KEY, "")] = entry.get(VALUE, "")
            elif message == "external" and entry.get(KEY) == "location":
                locations.add(entry.get(VALUE, ""))
        if not within:
            if not graphs:
                raise ValueError("there is no graph in it")
            return found, locations
        message, end = within[-1]
        number, stop = _field(file, end)
        inside = INSIDE[message].get(number)
        if inside:
            within.append((inside, stop))
            entry = {}
        elif message in {"metadata", "external"} and number in {KEY, VALUE}:
            length = stop - file.tell()
            text += length
            if text > MOST_TEXT:
                raise ValueError("more text than a model has")
            entry[number] = file.read(length).decode(errors="replace")
        else:
            file.seek(stop)
    raise ValueError("more fields than a model has")


def _field(file: BinaryIO, end: int) -> tuple[int, int]:
    """The field that begins here: its number (0 for a mere number, which holds no message), and where it ends."""
    tag = _varint(file)
    kind = tag & 7
    if kind == VARINT:
        _varint(file)
        length = 0
    elif kind == LENGTH:
        length = _varint(file)
    elif kind in FIXED:
        length = FIXED[kind]
    else:
        raise ValueError("not a protocol buffer")
    stop = file.tell() + length
    if not tag >> 3:
        raise ValueError("not a protocol buffer")
    if stop > end:
        raise ValueError("it is cut short")
    return tag >> 3 if kind == LENGTH else 0, stop


def _varint(file: BinaryIO) -> int:
    """A whole number, seven bits to a byte, the lowest first."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("it is cut short")
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:  # noqa: PLR2004 - the eighth bit says that another byte follows
            return value
    raise ValueError("not a protocol buffer")


def store_contract(path: Path, contract: Contract) -> None:
    """Replaces the contract in the ONNX model at `path`; all other bytes stay as they are.

    Raises:
        InputError: as `metadata`.
        RunError: the file cannot be written.
    """
    read_contract(path)
    key, value = METADATA_KEY.encode(), contract.to_json().encode()
    entry = _message(KEY, key) + _message(VALUE, value)

    def write(temporary: Path) -> None:
        with path.open("rb") as file, temporary.open("wb") as out:
            size = path.stat().st_size
            while file.tell() < size:
                start = file.tell()
                number, stop = _field(file, size)
                begin = file.tell()
                file.seek(start)
                whole = file.read(stop - start)
                if number != METADATA or not whole[begin - start :].startswith(_message(KEY, key)):
                    out.write(whole)
            out.write(_message(METADATA, entry))

    write_atomically(path, write)


def _message(number: int, payload: bytes) -> bytes:
    """A field of a length and its bytes."""
    written = bytearray([number << 3 | LENGTH])
    length = len(payload)
    while length > 127:  # noqa: PLR2004 - seven bits to a byte
        written.append(length & 127 | 128)
        length >>= 7
    written.append(length)
    return bytes(written) + payload
