"""Addresses of cameras and servers: what is shown of them, and where they may stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers.commands import run_bot
from hypothesis import given
from hypothesis import strategies as st

from bot_deploy.addresses import mask_address, mask_addresses, read_address
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "S3CRET"
AROUND = st.text(st.sampled_from("ab1:/?#@;=&%[]\\ .-\u202e\n'\""), max_size=6)
SCHEMES = st.sampled_from(["rtsp://", "RTSP://", "http://", "https://", "milvus://", "rtsp:/", "x+y://"])


@st.composite
def secrets(draw: st.DrawFn) -> str:
    return draw(AROUND) + SECRET + draw(AROUND)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://me:pass@host:554/one", "rtsp://***@host:554/one"),
        ("rtsp://me@host/one", "rtsp://***@host/one"),
        ("rtsp://host/one?a=1&b=2", "rtsp://host/one?***"),
        ("rtsp://host/one#part", "rtsp://host/one#***"),
        ("rtsp://host:554/user=admin&password=x&channel=1.sdp", "rtsp://host:554/user=***"),
        ("rtsp://me:p@ss@host/one", "rtsp://***"),
        ("rtsp://me:12/34@host/one", "rtsp://***"),
        ("rtsp://me:p?ss@host/one", "rtsp://***"),
        ("rtsp://host:port/one", "rtsp://***"),
        ("rtsp:/me:pass@host", "rtsp:/***"),
        ("me:pass@host/one", "***"),
        ("milvus:root:pass@host", "***"),
        ("http://[::1]:8080/x.mp4", "http://[::1]:8080/x.mp4"),
        ("0", "0"),
        ("clips/me@home.mp4", "clips/me@home.mp4"),
        (r"C:\clips\a.mp4", r"C:\clips\a.mp4"),
        ("C:/clips/a.mp4", "C:/clips/a.mp4"),
        ("12:30.mp4", "12:30.mp4"),
    ],
)
def test_what_is_shown(address: str, shown: str) -> None:
    assert mask_address(address) == shown
    assert mask_address(shown) == shown


@given(SCHEMES, secrets(), st.sampled_from(["host", "10.0.0.1:554", "[::1]"]), st.sampled_from(["", "/a/b", "/x?y=1"]))
def test_no_password_is_shown(scheme: str, secret: str, host: str, path: str) -> None:
    for user in (secret, f"me:{secret}", f"{secret}:me", f":{secret}"):
        assert SECRET not in mask_address(f"{scheme}{user}@{host}{path}")
    assert SECRET not in mask_address(f"me:{secret}@{host}{path}")


@given(SCHEMES, secrets(), st.sampled_from("?#;=&"))
def test_nothing_after_the_path_is_shown(scheme: str, secret: str, mark: str) -> None:
    assert SECRET not in mask_address(f"{scheme}host/path{mark}{secret}")


@given(
    SCHEMES,
    st.text(st.sampled_from("ab1:/?#@;=&%[]\\.-"), max_size=6),
    st.sampled_from(["", ": cannot be read", "', x"]),
)
def test_addresses_in_a_text(scheme: str, around: str, rest: str) -> None:
    shown = mask_addresses(f"camera '{scheme}me:{SECRET}{around}@host/x?{SECRET}{rest}")
    assert SECRET not in shown
    assert shown.startswith("camera '")
    assert mask_addresses(shown) == shown


def test_a_text_without_address_stays() -> None:
    text = "a.jpg: no such file; see https://example.org/help, or C:/x"
    assert mask_addresses(text) == text


@pytest.mark.parametrize("source", ["nowhere", "99"])
def test_the_example_in_a_message_is_shown(source: str, tmp_path: Path) -> None:
    assert "such as rtsp://host/stream" in run_bot("demo", "--source", source, cwd=tmp_path).stderr.splitlines()[-1]


def test_an_address_from_a_variable_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMERA", "rtsp://me:pass@host\n")
    (tmp_path / "camera").write_text("rtsp://me:pass@host  \n# the door\n")
    assert read_address("env:CAMERA") == "rtsp://me:pass@host"
    assert read_address(f"@{tmp_path / 'camera'}") == "rtsp://me:pass@host"
    for plain in ("rtsp://me:pass@host", "0", "people.gallery", "./@file", ""):
        assert read_address(plain) == plain


@pytest.mark.parametrize("text", ["env:NOWHERE", "env:", "@nowhere", "@", "@empty", "@\0"])
def test_no_address_there(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(InputError):
        read_address(text)
