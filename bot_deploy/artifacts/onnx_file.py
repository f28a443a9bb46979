"""The contract in an ONNX file, read and replaced without a runtime and without the package onnx.

An ONNX file is one message of Protocol Buffers (https://protobuf.dev/programming-guides/encoding): a list of fields.
A field is a tag (field number and wire type) and a payload; a length-delimited payload can be a message again. No core
dependency parses Protocol Buffers (only exporting needs the package onnx), so this module does. It reads only the
messages that lead to the metadata and to external weights, and skips all others. Memory does not grow with the size of
the file, nor with the sizes that a damaged file claims.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bot_deploy.errors import InputError
from bot_deploy.files import write_atomically

from .contract import FRONT_KEY, METADATA_KEY, Contract, from_json

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

# message type -> field number -> type of the submessage, from onnx.proto: the ways to the metadata and to all tensors
SUBMESSAGES = {
    "model": {7: "graph", 14: "metadata", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "metadata": {},  # StringStringEntryProto: a key and a value
    "external": {},  # the same
}
METADATA_PROPS = 14  # field number in ModelProto
KEY, VALUE = 1, 2  # field numbers in StringStringEntryProto
VARINT, LENGTH_DELIMITED = 0, 2  # wire types
FIXED_SIZES = {1: 8, 5: 4}  # wire type -> bytes of the payload
MAX_FIELDS = 300_000  # thirty times as many as in a ResNet-50; read in two seconds
MAX_TEXT_BYTES = 16 << 20


def read_contract(path: Path) -> Contract:
    """The contract in the ONNX model at `path`, which is checked as by `read_metadata`.

    Raises:
        InputError: as `read_metadata`, or no contract, or one that this version does not support.
    """
    entries = read_metadata(path)
    if FRONT_KEY in entries:
        raise InputError(f"{path}: made for another program, which feeds it floats; name the model.onnx it comes from")
    if METADATA_KEY not in entries:
        raise InputError(
            f"{path}: no contract inside; `bot export` writes one, and `bot wrap` makes a model with one from it"
        )
    return from_json(entries[METADATA_KEY], str(path))


def write_contract(path: Path, contract: Contract) -> None:
    """Replaces the contract in the ONNX model at `path`; all other bytes stay as they are.

    Raises:
        InputError: as `read_contract`.
        RunError: the file cannot be written.
    """
    read_contract(path)
    key = _length_delimited(KEY, METADATA_KEY.encode())
    entry = key + _length_delimited(VALUE, contract.to_json().encode())

    def write(temporary: Path) -> None:
        with path.open("rb") as file, temporary.open("wb") as out:
            size = path.stat().st_size
            while file.tell() < size:
                start = file.tell()
                number, end = _read_field(file, size)
                payload = file.tell() - start
                file.seek(start)
                field = file.read(end - start)
                if number != METADATA_PROPS or not field[payload:].startswith(key):
                    out.write(field)
            out.write(_length_delimited(METADATA_PROPS, entry))

    write_atomically(path, write)


def read_metadata(path: Path) -> dict[str, str]:
    """The `metadata_props` of the ONNX model at `path`.

    Raises:
        InputError: not ONNX, damaged or truncated; or weights in a file that is missing or outside the model's folder.
    """
    try:
        with path.open("rb") as file:
            entries, locations = _read_model(file, path.stat().st_size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise InputError(f"{path}: not an ONNX model, or damaged ({error}); export it again") from None
    folder = path.parent.resolve()
    for location in sorted(locations):
        try:
            weights = (folder / location).resolve()
            missing = not weights.is_file()
        except (OSError, ValueError, RuntimeError):  # a null byte, a name that is too long, a loop of links
            raise InputError(f"{path}: its weights are in {location[:80]!r}, which is no file name") from None
        if not weights.is_relative_to(folder):
            raise InputError(f"{path}: its weights are in {location!r}, outside its own folder; it is refused")
        if missing:
            raise InputError(f"{path}: its weights are in {location!r}, which is not beside it; copy both files")
    return entries


def _read_model(file: BinaryIO, size: int) -> tuple[dict[str, str], set[str]]:
    """The metadata and the locations of external weights in the ModelProto that fills `file`.

    Raises:
        ValueError: not a model; the text says why.
    """
    entries: dict[str, str] = {}
    locations: set[str] = set()
    entry: dict[int, str] = {}
    graphs, text_bytes = 0, 0
    open_messages = [("model", size)]  # (type, end) of the messages around the next field, outermost first
    for _ in range(MAX_FIELDS):
        while open_messages and file.tell() == open_messages[-1][1]:
            message, _ = open_messages.pop()
            graphs += message == "graph"
            if message == "metadata":
                entries[entry.get(KEY, "")] = entry.get(VALUE, "")
            elif message == "external" and entry.get(KEY) == "location":
                locations.add(entry.get(VALUE, ""))
        if not open_messages:
            if not graphs:
                raise ValueError("no graph in it")
            return entries, locations
        message, message_end = open_messages[-1]
        field = _read_field(file, message_end)
        submessage = SUBMESSAGES[message].get(field.text_number)
        if submessage:
            open_messages.append((submessage, field.end))
            entry = {}  # the key and the value in it, if it is metadata or external
        elif message in {"metadata", "external"} and field.text_number in {KEY, VALUE}:
            length = field.end - file.tell()
            text_bytes += length
            if text_bytes > MAX_TEXT_BYTES:
                raise ValueError("more text than a model has")
            entry[field.text_number] = file.read(length).decode(errors="replace")
        else:
            file.seek(field.end)
    raise ValueError("more fields than a model has")


class _Field(NamedTuple):
    """A field of a message; the file is read up to its payload."""

    text_number: int  # its number if it can hold text or another message, as it is length-delimited; 0 if it cannot
    end: int  # position in the file, behind the payload


def _read_field(file: BinaryIO, message_end: int) -> _Field:
    """Reads the tag of the next field, and the length in front of a length-delimited payload, or a number."""
    tag = _read_varint(file)
    number, wire_type = tag >> 3, tag & 7
    if wire_type == VARINT:
        _read_varint(file)
        length = 0
    elif wire_type == LENGTH_DELIMITED:
        length = _read_varint(file)
    elif wire_type in FIXED_SIZES:
        length = FIXED_SIZES[wire_type]
    else:
        raise ValueError("unknown wire type")
    end = file.tell() + length
    if not number:
        raise ValueError("field number 0")
    if end > message_end:
        raise ValueError("cut short")
    return _Field(number if wire_type == LENGTH_DELIMITED else 0, end)


def _read_varint(file: BinaryIO) -> int:
    """An integer of seven bits a byte, the lowest bits first; the eighth bit is set if another byte follows."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("cut short")
        value |= (byte[0] & 0x7F) << shift
        if not byte[0] & 0x80:
            return value
    raise ValueError("a varint of more than ten bytes")


def _length_delimited(number: int, payload: bytes) -> bytes:
    """The length-delimited field `number` with `payload`."""
    return bytes([number << 3 | LENGTH_DELIMITED]) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - the largest value of one byte
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
