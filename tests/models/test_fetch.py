"""Fetching from a server on this machine, with all that can go wrong."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from helpers.model_server import ModelServer

from bot_deploy.errors import BotError, InputError, RunError
from bot_deploy.models import fetch as fetching
from bot_deploy.models.fetch import fetch, find_cached_file

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.models.table import NamedModel

CONTENT = {"net_xml": b"<net/>" * 30_000, "net_bin": os.urandom(200_000)}


@pytest.fixture
def network(server: ModelServer) -> NamedModel:
    return server.network("some-net", **CONTENT)


def files(folder: Path) -> dict[str, bytes]:
    """What is in `folder` that a reader could open."""
    paths = sorted(folder.rglob("*")) if folder.is_dir() else []
    return {path.name: path.read_bytes() for path in paths if path.is_file() and path.name != ".lock"}


def test_fetched_once(
    server: ModelServer, network: NamedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert find_cached_file(network) is None
    first = fetch(network)
    assert first == tmp_path / "models" / "some-net" / "net.xml"
    assert files(first.parent) == {"net.bin": CONTENT["net_bin"], "net.xml": CONTENT["net_xml"]}
    assert caplog.messages == ["some-net: MIT, the tests; training data: none"]
    assert fetch(network) == first
    assert server.requests == ["/net.xml", "/net.bin"]
    assert len(caplog.messages) == 1
    assert find_cached_file(network) == first


def test_a_complete_folder_is_not_touched(network: NamedModel, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "some-net"
    folder.mkdir(parents=True)
    for key, content in CONTENT.items():
        (folder / key.replace("_", ".")).write_bytes(content)
    assert fetch(network).parent == folder
    assert sorted(path.name for path in folder.iterdir()) == ["net.bin", "net.xml"]


FAULTS = {
    "404": "the server answered 404 Not Found",
    "503": "the server answered 503 Service Unavailable",
    "wrong": "has another checksum than the file of its authors",
    "long": "has another checksum than the file of its authors",
    "cut": "the connection was cut",
    "stops": "the connection was cut",
}


@pytest.mark.parametrize("fault", ["cut", "stops"])
def test_a_connection_that_ends_before_the_first_part_is_tried_again(
    fault: str, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "TIMEOUT_S", (0.3, 0.3))
    monkeypatch.setattr(fetching, "CHUNK_BYTES", 1 << 20)
    network = server.network("some-net", net_onnx=os.urandom(100_000))
    server.fault, server.faults_left = fault, 1
    fetch(network)
    assert server.requests == ["/net.onnx", "/net.onnx"]
    server.faults_left = 9
    with pytest.raises(RunError, match="the connection was cut"):
        fetch(replace(network, name="other"))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_the_second_try_is_clean(
    fault: str, server: ModelServer, network: NamedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "TIMEOUT_S", (0.3, 0.3))
    server.fault = fault
    with pytest.raises(RunError) as caught:
        fetch(network)
    message, folder = str(caught.value), tmp_path / "models" / "some-net"
    assert "\n" not in message
    assert FAULTS[fault] in message
    assert network.files[0].address in message
    assert message.endswith(f"fetch it by hand into {folder}")
    assert files(folder) == {}
    server.fault = ""
    fetch(network)
    assert files(folder) == {"net.bin": CONTENT["net_bin"], "net.xml": CONTENT["net_xml"]}


def test_a_connection_that_was_cut_is_tried_again(server: ModelServer, network: NamedModel) -> None:
    server.fault, server.faults_left = "cut", 1
    fetch(network)
    assert server.requests == ["/net.xml", "/net.xml", "/net.bin"]


def test_a_redirect_is_followed(server: ModelServer, network: NamedModel) -> None:
    server.fault = "redirect"
    assert fetch(network).read_bytes() == CONTENT["net_xml"]
    assert server.requests == ["/net.xml", "/moved/net.xml", "/net.bin", "/moved/net.bin"]


def test_a_proxy_is_used(server: ModelServer, network: NamedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    far = [replace(file, address=f"http://models.invalid/{file.name}") for file in network.files]
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.server_port}")
    fetch(replace(network, files=tuple(far)))
    assert server.requests == ["http://models.invalid/net.xml", "http://models.invalid/net.bin"]
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with pytest.raises(RunError, match="the proxy refuses or does not answer"):
        fetch(replace(network, name="other", files=tuple(far)), None)


def test_a_missing_file_of_certificates(network: NamedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a proxy needs that opens connections; it is no full disk."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "none.pem")
    safe = [replace(file, address=file.address.replace("http:", "https:")) for file in network.files]
    with pytest.raises(
        RunError, match=r"https://.*: cannot be fetched \(.*none\.pem\); try again, or fetch it by hand"
    ):
        fetch(replace(network, files=tuple(safe)))


def test_no_server(server: ModelServer, network: NamedModel) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(RunError, match=r"net\.xml: cannot be fetched \(no connection\); try again, or"):
        fetch(network)


@pytest.mark.parametrize("damaged", [False, True])
def test_offline_nothing_is_tried(
    damaged: bool, server: ModelServer, network: NamedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOT_OFFLINE", "1")
    folder = tmp_path / "models" / "some-net"
    if damaged:
        folder.mkdir(parents=True)
        (folder / "net.xml").write_bytes(CONTENT["net_xml"])
        (folder / "net.bin").write_bytes(b"half")
    with pytest.raises(InputError) as caught:
        fetch(network)
    addresses = [file.address for file in network.files[damaged:]]
    reason = f"{folder / 'net.bin'} has another checksum" if damaged else "some-net is not in the cache"
    assert str(caught.value) == (
        f"{reason}, and $BOT_OFFLINE forbids to fetch it; fetch {' and '.join(addresses)} by hand into {folder}"
    )
    assert server.requests == []
    assert caught.value.exit_code == 2


def test_a_damaged_file_is_fetched_again(server: ModelServer, network: NamedModel) -> None:
    path = fetch(network)
    path.write_bytes(CONTENT["net_xml"][:-1])
    assert find_cached_file(network) is None
    assert fetch(network).read_bytes() == CONTENT["net_xml"]
    assert server.requests[2:] == ["/net.xml"]


def test_a_folder_to_carry_over(
    server: ModelServer, network: NamedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(network)
    monkeypatch.setenv("BOT_OFFLINE", "1")  # what is in the cache already is copied
    assert fetch(network, tmp_path / "stick") == tmp_path / "stick" / "some-net" / "net.xml"
    assert files(tmp_path / "stick") == {"net.bin": CONTENT["net_bin"], "net.xml": CONTENT["net_xml"]}
    monkeypatch.setenv("BOT_MODELS", str(tmp_path / "stick"))
    assert fetch(network) == tmp_path / "stick" / "some-net" / "net.xml"
    assert len(server.requests) == 2


def test_two_processes_fetch_once(server: ModelServer, network: NamedModel) -> None:
    server.fault = "slow"
    code = (
        "import sys; from bot_deploy.models.fetch import fetch; from bot_deploy.models.table import *\n"
        f"print(fetch({network!r}))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert sorted(server.requests) == ["/net.bin", "/net.xml"]


def test_a_folder_that_cannot_be_written(network: NamedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BOT_MODELS", str(tmp_path / "file" / "models"))
    with pytest.raises(RunError) as caught:
        fetch(network)
    assert str(caught.value) == (
        f"{tmp_path / 'file' / 'models' / 'some-net'}: cannot be written (Not a directory); free some space, or choose "
        f"another folder ($BOT_MODELS, or --to of `bot models`); fetch {network.files[0].address} and "
        f"{network.files[1].address} by hand into {tmp_path / 'file' / 'models' / 'some-net'}"
    )


@pytest.mark.skipif(os.name != "posix", reason="needs permissions of POSIX")
def test_a_read_only_cache(network: NamedModel, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    folder.chmod(0o555)
    user = os.geteuid()
    try:
        if user == 0:  # to whom permissions do not matter
            os.seteuid(65_534)
        with pytest.raises(RunError, match=r"cannot be written \(Permission denied\); free some space, or choose"):
            fetch(network)
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


@pytest.mark.skipif(os.name != "posix", reason="needs limits of POSIX")
def test_a_full_disk(server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on the size of files stands for a full disk: writing fails in the middle."""
    import resource

    network = server.network("large", net_onnx=os.urandom(3 << 20))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, limits[1]))
    try:
        with pytest.raises(RunError, match=r"large: cannot be written \(File too large\); free some space") as caught:
            fetch(network)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert network.files[0].address in str(caught.value)
    assert files(tmp_path / "models") == {}
    fetch(network)


def test_without_pooch(network: NamedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(BotError, match=r"pooch is not installed.*pip install 'bot-deploy\[models\]', or fetch http://"):
        fetch(network)


def test_poochs_own_log_is_as_before(network: NamedModel) -> None:
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    fetch(network)
    assert pooch.get_logger().level == logging.WARNING
