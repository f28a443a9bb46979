"""The quantiser's messages are dropped, and logging stays as it was."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from bot_deploy.export.quantizer import _silent_quantizer

if TYPE_CHECKING:
    import pytest


def _record(pathname: str, level: int, message: str) -> logging.LogRecord:
    return logging.LogRecord("root", level, pathname, 1, message, (), None)


def test_only_the_quantisers_messages_are_dropped(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    caplog.set_level(logging.INFO)
    caplog.clear()
    with _silent_quantizer():
        sys.stdout.write("from the quantiser")
        root.handle(_record("/site-packages/onnxruntime/quantization/quantize.py", logging.WARNING, "advice"))
        root.handle(_record("/site-packages/onnxruntime/quantization/quantize.py", logging.ERROR, "an error"))
        root.info("from the user")
        logging.getLogger("another_package").warning("from another library")
    assert [record.getMessage() for record in caplog.records] == ["an error", "from the user", "from another library"]
    assert capsys.readouterr().out == ""
    root.handle(_record("/site-packages/onnxruntime/quantization/quantize.py", logging.WARNING, "afterwards"))
    assert caplog.messages[-1] == "afterwards"


def test_the_root_logger_and_stdout_stay_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    root, stdout = logging.getLogger(), sys.stdout
    monkeypatch.setattr(root, "handlers", [])  # as in a program that never configured logging
    before = (root.level, [*root.filters])
    with _silent_quantizer():
        logging.warning("logging.warning() installs a handler if there is none")  # noqa: LOG015
    assert (root.level, root.filters) == before
    assert root.handlers == []
    assert sys.stdout is stdout
