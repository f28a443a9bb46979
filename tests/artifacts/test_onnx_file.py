"""ONNX files read without a runtime: metadata, damage, and weights that lie where they should not."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from helpers.commands import run_bot
from onnx import TensorProto, helper, numpy_helper

from bot_deploy.artifacts import onnx_file as reader
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

VALUES = np.arange(6, dtype=np.float32)


def tensor(location: str | None = None) -> TensorProto:
    """Six floats, in the file or outside it."""
    made = numpy_helper.from_array(VALUES, "w")
    if location is not None:
        made.ClearField("raw_data")
        made.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(VALUES.nbytes))):
            made.external_data.add(key=key, value=value)
    return made


def graph(initializer: TensorProto, *nodes: onnx.NodeProto) -> onnx.GraphProto:
    """y = x + w."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [6]) for name in "xy")
    return helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"]), *nodes], "g", [x], [y], [initializer])


def model(made: onnx.GraphProto, **properties: str) -> onnx.ModelProto:
    whole = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])
    helper.set_model_props(whole, properties)
    return whole


def write(path: Path, made: onnx.ModelProto) -> Path:
    path.write_bytes(made.SerializeToString())
    return path


# ---- what is read ----


def test_metadata_is_what_onnx_reads(onnx_file: Path) -> None:
    expected = {entry.key: entry.value for entry in onnx.load(str(onnx_file)).metadata_props}
    assert reader.read_metadata(onnx_file) == expected
    contract = reader.read_contract(onnx_file)
    assert json.loads(expected["bot_deploy.contract"])["fingerprint"] == contract.fingerprint
    assert contract.size == (64, 32)


def test_empty_and_repeated_metadata(tmp_path: Path) -> None:
    odd = {"": "", "empty": "", "ünïcode": "é\n☃", "long": "x" * 100_000, "zero": "a\0b"}
    assert reader.read_metadata(write(tmp_path / "m.onnx", model(graph(tensor()), **odd))) == odd
    assert reader.read_metadata(write(tmp_path / "m.onnx", model(graph(tensor())))) == {}


def test_the_last_of_two_entries_counts_as_in_the_runtimes(tmp_path: Path) -> None:
    import onnxruntime as ort

    twice = model(graph(tensor()))
    for value in ("first", "last"):
        twice.metadata_props.add(key="k", value=value)
    path = write(tmp_path / "m.onnx", twice)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert reader.read_metadata(path) == {"k": "last"} == session.get_modelmeta().custom_metadata_map


def test_every_message_that_can_hold_a_tensor_is_entered() -> None:
    """SUBMESSAGES against the descriptors of the onnx package: every way to a TensorProto is in it."""
    names = {
        "ModelProto": "model",
        "GraphProto": "graph",
        "NodeProto": "node",
        "AttributeProto": "attribute",
        "SparseTensorProto": "sparse",
        "TensorProto": "tensor",
        "TrainingInfoProto": "training",
        "FunctionProto": "function",
    }
    for proto, name in names.items():
        fields = getattr(onnx, proto).DESCRIPTOR.fields
        ways = {f.number: names[f.message_type.name] for f in fields if f.message_type and f.message_type.name in names}
        entries = {f.number: "metadata" for f in fields if proto == "ModelProto" and f.name == "metadata_props"}
        entries |= {f.number: "external" for f in fields if f.name == "external_data"}
        assert reader.SUBMESSAGES[name] == ways | entries
    # And none of the other messages in a model holds one of these.
    left, seen = [onnx.ModelProto.DESCRIPTOR], {"ModelProto"}
    while left:
        for field in left.pop().fields:
            if field.message_type and field.message_type.name not in seen:
                left.append(field.message_type)
                seen.add(field.message_type.name)
    assert set(names) < seen
    for proto in seen - set(names) - {"StringStringEntryProto"}:
        fields = getattr(onnx, proto, onnx.TypeProto).DESCRIPTOR.fields
        assert not [f.name for f in fields if f.message_type and f.message_type.name in names], proto


# ---- what is refused ----


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not a model", id="text"),
        pytest.param(b"\0" * 1000, id="zeros"),
        pytest.param(b"\xff" * 1000, id="ones"),
        pytest.param(b"\x08" + b"\x80" * 20, id="endless-number"),
        pytest.param(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", id="graph-of-exabytes"),
        pytest.param(b"\x08\x07", id="no-graph"),
        pytest.param(b"\x3a\x02\x0a\x05", id="node-longer-than-its-graph"),
        pytest.param(b"\x3b\x3c", id="group"),
        pytest.param(bytes(range(256)) * 10, id="noise"),
    ],
)
def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(InputError, match=r"m\.onnx: not an ONNX model, or damaged") as caught:
        reader.read_metadata(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)


def test_every_cut_that_loses_something_is_noticed(tmp_path: Path) -> None:
    whole = model(graph(tensor()), key="value").SerializeToString()
    ends = {0}  # of the top-level fields, where a cut leaves a shorter but sound message
    for number in range(1, len(whole)):
        try:
            onnx.ModelProto.FromString(whole[:number])
        except Exception:  # noqa: BLE001 - google's DecodeError
            continue
        ends.add(number)
    for number in range(len(whole)):
        (tmp_path / "m.onnx").write_bytes(whole[:number])
        if number in ends and onnx.ModelProto.FromString(whole[:number]).HasField("graph"):
            reader.read_metadata(tmp_path / "m.onnx")
        else:
            with pytest.raises(InputError):
                reader.read_metadata(tmp_path / "m.onnx")


def test_flipped_bytes_raise_nothing_else(tmp_path: Path) -> None:
    whole = model(graph(tensor("w.bin")), key="value").SerializeToString()
    (tmp_path / "w.bin").write_bytes(VALUES.tobytes())
    for number in range(len(whole)):
        for bits in (1, 0x80, 0xFF):
            (tmp_path / "m.onnx").write_bytes(whole[:number] + bytes([whole[number] ^ bits]) + whole[number + 1 :])
            try:
                reader.read_metadata(tmp_path / "m.onnx")
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x08\x01" * 2_000_000, id="a-million-numbers"),
        pytest.param(b"\x3a\x00" * 2_000_000, id="a-million-graphs"),
        pytest.param(b"\x72\x00" * 2_000_000, id="a-million-entries"),
        pytest.param(b"\x72\x80\x80\x80\x10" + b"\x12\xf8\xff\xff\x0f" + b"x" * (32 << 20), id="32-MB-of-metadata"),
    ],
)
def test_work_is_bounded(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    started = time.process_time()
    with pytest.raises(InputError, match=r"than a model has|cut short"):
        reader.read_metadata(tmp_path / "m.onnx")
    assert time.process_time() - started < 10


def nested(depth: int) -> bytes:
    """A graph in the attribute of a node in a graph, and so on."""
    inner = b""
    for number in range(3 * depth):
        inner = bytes([(0x32, 0x2A, 0x0A)[number % 3]]) + _varint(len(inner)) + inner
    return b"\x3a" + _varint(len(inner)) + inner


def _varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(128 | number & 127)
        number >>= 7
    return bytes([*parts, number])


def test_deeply_nested_graphs(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(nested(5000))
    assert reader.read_metadata(tmp_path / "m.onnx") == {}


# ---- weights in other files ----


def in_initializer(made: TensorProto) -> onnx.ModelProto:
    return model(graph(made))


def in_constant(made: TensorProto) -> onnx.ModelProto:
    return model(graph(tensor(), helper.make_node("Constant", [], ["c"], value=made)))


def in_subgraph(made: TensorProto) -> onnx.ModelProto:
    branches = {"then_branch": graph(made), "else_branch": graph(tensor())}
    return model(graph(tensor(), helper.make_node("If", ["x"], ["z"], **branches)))


def in_sparse(made: TensorProto) -> onnx.ModelProto:
    whole = graph(tensor())
    whole.sparse_initializer.add().values.CopyFrom(made)
    return model(whole)


def in_function(made: TensorProto) -> onnx.ModelProto:
    whole = model(graph(tensor()))
    constant = helper.make_node("Constant", [], ["c"], value=made)
    whole.functions.append(
        helper.make_function("own", "f", [], ["c"], [constant], opset_imports=[helper.make_opsetid("", 18)])
    )
    return whole


def in_training(made: TensorProto) -> onnx.ModelProto:
    whole = model(graph(tensor()))
    whole.training_info.add().algorithm.CopyFrom(graph(made))
    return whole


PLACES = [in_initializer, in_constant, in_subgraph, in_sparse, in_function, in_training]


@pytest.mark.parametrize("place", PLACES)
def test_weights_outside_the_folder_are_refused_wherever_they_hide(
    tmp_path: Path, place: Callable[[TensorProto], onnx.ModelProto]
) -> None:
    (tmp_path / "secret.bin").write_bytes(VALUES.tobytes())
    (tmp_path / "model").mkdir()
    path = write(tmp_path / "model" / "m.onnx", place(tensor("../secret.bin")))
    with pytest.raises(InputError, match=r"'\.\./secret\.bin', outside its own folder"):
        reader.read_metadata(path)
    (tmp_path / "model" / "beside.bin").write_bytes(VALUES.tobytes())
    assert reader.read_metadata(write(path, place(tensor("beside.bin")))) == {}


@pytest.mark.parametrize(
    "location",
    [
        "/etc/passwd",
        "../m/../../secret.bin",
        "sub/../../secret.bin",
        "link.bin",
        "linked/secret.bin",
        "..",
        "//etc/passwd",
    ],
)
def test_ways_out_of_the_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(b"0" * 24)
    folder = tmp_path / "m"
    (folder / "sub").mkdir(parents=True)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "linked").symlink_to(tmp_path)
    path = write(folder / "m.onnx", in_initializer(tensor(location)))
    with pytest.raises(InputError, match="outside its own folder; it is refused"):
        reader.read_metadata(path)


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("gone.bin", "'gone.bin', which is not beside it"),
        ("", "'', which is not beside it"),
        (".", "which is not beside it"),
        ("*/_ORT_MEM_ADDR_/*", "which is not beside it"),  # ONNX Runtime would take the offset for an address
        ("a\0b", "no file name"),
        ("n" * 5000, "no file name"),
        ("loop.bin", "no file name|not beside it"),
    ],
)
def test_weights_that_are_no_file_in_the_folder(tmp_path: Path, location: str, said: str) -> None:
    (tmp_path / "loop.bin").symlink_to(tmp_path / "loop.bin")
    path = write(tmp_path / "m.onnx", in_initializer(tensor(location)))
    with pytest.raises(InputError, match=said.replace("*", r"\*")):
        reader.read_metadata(path)


def test_weights_beside_the_model_may_be_in_a_folder_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime as ort

    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "w.bin").write_bytes(VALUES.tobytes())
    path = write(tmp_path / "m.onnx", in_initializer(tensor("parts/w.bin")))
    assert reader.read_metadata(path) == {}
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": VALUES})[0], 2 * VALUES)
    monkeypatch.chdir(tmp_path)
    assert reader.read_metadata(Path("m.onnx")) == {}


# ---- as a person meets it ----


def refused(done: subprocess.CompletedProcess[str], path: Path) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"bot: {path}: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def devices() -> list[str]:
    from importlib.util import find_spec

    return ["cpu", "openvino"] if find_spec("openvino") else ["cpu"]


@pytest.mark.parametrize("device", devices())
def test_a_sparse_file_of_two_gigabytes(tmp_path: Path, device: str) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(2 << 30)
    if path.stat().st_blocks * 512 > 1 << 30:
        pytest.skip("this file system has no sparse files")
    if not Path("/proc/self/status").is_file():
        pytest.skip("needs Linux to see the most memory that a process had")
    code = """
import sys
from pathlib import Path
from bot_deploy.cli import main
try:
    main()
finally:
    print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0], file=sys.stderr)
"""
    words = [sys.executable, "-c", code, "eval", path, "--device", device]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    *lines, peak = done.stderr.splitlines()
    assert int(peak) < 400 << 10  # kB, most of it the runtime itself
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10
    done.stderr = "".join(f"{line}\n" for line in lines)
    refused(done, path)


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("kept", [0.001, 0.5, 0.999])
def test_a_truncated_model(onnx_file: Path, tmp_path: Path, device: str, kept: float) -> None:
    path = tmp_path / "model.onnx"
    whole = onnx_file.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    done = run_bot("eval", path, "--device", device)
    refused(done, path)


@pytest.mark.parametrize("device", devices())
def test_a_model_with_weights_outside_its_folder(onnx_file: Path, tmp_path: Path, device: str) -> None:
    path = tmp_path / "box" / "model.onnx"
    path.parent.mkdir()
    whole = onnx.load(str(onnx_file))
    onnx.save(whole, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location="weights.bin")
    shutil.move(path.parent / "weights.bin", tmp_path / "weights.bin")
    moved = onnx.load(str(path), load_external_data=False)
    for made in moved.graph.initializer:
        for entry in made.external_data:
            if entry.key == "location":
                entry.value = os.path.join("..", "weights.bin")  # noqa: PTH118 - a path as text
    done = run_bot("eval", write(path, moved), "--device", device)
    refused(done, path)
    assert "outside its own folder" in done.stderr
