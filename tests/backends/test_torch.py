"""TF32 stays off while anyone needs full float32, and comes back when the last one has ended."""

from __future__ import annotations

from contextlib import ExitStack
from threading import Barrier, Thread

import pytest
import torch

from bot_deploy.backends.torch import full_float32

TIMEOUT_S = 60


def allowed() -> bool:
    return torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("first_to_end", ["first to start", "last to start"])
def test_of_two_overlapping_users_the_last_to_end_restores_the_setting(
    first_to_end: str, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before)
    training, backend = ExitStack(), ExitStack()
    training.enter_context(full_float32())
    backend.enter_context(full_float32())
    assert not allowed()
    first, last = (training, backend) if first_to_end == "first to start" else (backend, training)
    first.close()
    assert not allowed()  # the other still needs it
    last.close()
    assert allowed() is before
    with full_float32():  # the count is back at 0
        assert not allowed()
    assert allowed() is before


@pytest.mark.parametrize("thread_ends_first", [True, False])
def test_users_in_two_threads_do_not_restore_each_others_value(
    thread_ends_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    both_open, may_end = Barrier(2, timeout=TIMEOUT_S), Barrier(2, timeout=TIMEOUT_S)

    def use() -> None:
        with full_float32():
            both_open.wait()
            may_end.wait()

    thread = Thread(target=use, daemon=True)
    thread.start()
    with full_float32():
        both_open.wait()
        if thread_ends_first:
            may_end.wait()
            thread.join(TIMEOUT_S)
        assert not allowed()
    if not thread_ends_first:
        assert not allowed()  # the thread still needs it
        may_end.wait()
        thread.join(TIMEOUT_S)
    assert allowed()


def test_an_error_restores_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with pytest.raises(KeyError), full_float32():
        raise KeyError
    assert allowed()
