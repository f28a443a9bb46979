"""`bot env`: what it finds here, and what its table says about other machines."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import metadata

import pytest
from helpers.commands import run_bot

from bot_deploy import environment
from bot_deploy.choices import BACKENDS, DEVICES
from bot_deploy.driver import Driver, Gpu
from bot_deploy.environment import Environment, Runtime
from bot_deploy.errors import RunError

OTHER = Environment(
    bot_deploy="1.2.3",
    python="3.12.1",
    system="Linux x86_64",
    cpu="A CPU",
    cores=4,
    cpu_features=("AVX2", "VNNI"),
    driver=Driver("580.65.06", "13.0", (Gpu("NVIDIA H100 80GB HBM3", "sm90", 132, 80 * 2**30),)),
    cuda_visible_devices=None,
    libraries={"cuDNN": "9.24.0"},
    packages={"onnxruntime-gpu": "1.31.0", "nvidia-cudnn-cu13": "9.24.0"},
    runtimes=(Runtime("cuda", (".onnx",), "ONNX Runtime 1.31.0 CUDA", ""), Runtime("cpu", (".pt",), "", "no torch")),
)


def test_the_table_and_its_json() -> None:
    done = run_bot("env", "--device", "cuda", "--json")
    document = json.loads(done.stdout)
    # Each version is that of the installed package, and no runtime is left out.
    for name, version in document["packages"].items():
        assert version == metadata.version(name)
    assert {"numpy", "pillow", "torch"} <= set(document["packages"])
    rows = {(row["device"], suffix): row for row in document["runtimes"] for suffix in row["models"]}
    assert set(rows) == {(device, suffix) for suffix, devices in BACKENDS.items() for device in devices}
    assert rows["cpu", ".onnx"]["runs"]
    assert rows["cpu", ".onnx"]["runtime"].startswith("ONNX Runtime")
    assert rows["cpu", ".pt"]["runtime"].startswith(f"PyTorch {document['packages']['torch']}")
    for row in document["runtimes"]:
        assert row["runs"] == bool(row["runtime"]) == (not row["missing"])
    gpus, runs_on_gpu = document["driver"]["gpus"], rows["cuda", ".onnx"]["runs"]
    assert bool(gpus) == (not document["driver"]["failure"])
    assert gpus or not runs_on_gpu
    if any(row["runs"] for row in document["runtimes"] if row["device"] == "cuda"):
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert last == "bot: nothing runs on cuda here; the table says what is missing (--device)"


def test_the_table_of_another_machine() -> None:
    lines = OTHER.text_lines()
    table = {name: value.strip() for name, _, value in (line.partition("  ") for line in lines)}
    assert table["bot-deploy"] == "1.2.3 with Python 3.12.1 on Linux x86_64"
    assert table["CPU"] == "A CPU, 4 cores, AVX2, VNNI"
    assert table["NVIDIA driver"] == "580.65.06, for CUDA up to 13.0"
    assert table["GPU cuda:0"] == "NVIDIA H100 80GB HBM3, sm90, 132 multiprocessors, 80 GiB"
    assert table["cuDNN"] == "9.24.0, of the system"
    assert table["onnxruntime-gpu"] == "1.31.0"
    assert table["onnxruntime"] == "not installed"
    assert table["nvidia-cudnn-cu13"] == "9.24.0"
    assert table[".onnx on cuda"] == "yes: ONNX Runtime 1.31.0 CUDA"
    assert table[".pt on cpu"] == "no: no torch"
    assert not any("CUDA_VISIBLE_DEVICES" in line for line in lines)


def test_the_table_says_why_there_is_no_gpu() -> None:
    driver = Driver("", "13.0", (), "no CUDA-capable device is detected")
    lines = "\n".join(replace(OTHER, driver=driver, cuda_visible_devices="", cpu_features=None).text_lines())
    assert "of an unknown version, for CUDA up to 13.0" in lines
    assert "none: no CUDA-capable device is detected" in lines
    assert "CUDA_VISIBLE_DEVICES  empty, so that no GPU is visible" in lines


@pytest.mark.parametrize(("device", "runs"), [("auto", True), ("cuda", True), ("cpu", False), ("openvino", False)])
def test_whether_anything_runs_on_a_device(device: str, runs: bool) -> None:
    assert OTHER.runs_on(device) is runs


def test_a_runtime_that_fails_in_any_way_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(module: str, device: str) -> str:
        if module == "torch":
            raise OSError("libcudnn.so.9: cannot open\nshared object file")
        if module == "openvino":
            raise RunError("openvino is not installed; pip install it")
        return f"{module} {device}"

    monkeypatch.setattr(environment, "_try", fail)
    rows = {(row.device, row.models): row for row in environment._try_runtimes()}
    assert rows["cpu", (".pt",)].missing == "OSError: libcudnn.so.9: cannot open shared object file"
    assert rows["openvino", (".onnx", ".xml")].missing == "openvino is not installed; pip install it"
    assert rows["cpu", (".onnx",)] == Runtime("cpu", (".onnx",), "onnxruntime cpu", "")
    assert {device for device, _ in rows} == set(DEVICES[1:])
