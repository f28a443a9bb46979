"""Networks by name through the whole way: fetched, wrapped, opened, listed."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.model_server import DIM, SIZE, ModelServer, expected_vectors, write_foreign_model
from PIL import Image

from bot_deploy import open_embedder
from bot_deploy.artifacts import read_contract
from bot_deploy.artifacts.contract import decode_calibration
from bot_deploy.choices import MEAN, STD
from bot_deploy.cli import bot
from bot_deploy.datasets import open_dataset
from bot_deploy.errors import InputError, RunError
from bot_deploy.export import by_name
from bot_deploy.export.by_name import prepare_model
from bot_deploy.models import box, table
from bot_deploy.models.table import NamedDetector, NetworkInput
from bot_deploy.video.detectors import choose_detector, open_detector

if TYPE_CHECKING:
    from bot_deploy.models.table import NamedModel

CROPS = np.random.default_rng(3).integers(0, 256, (5, *SIZE, 3), dtype=np.uint8)


@pytest.fixture
def network(server: ModelServer, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NamedModel:
    """A network of the table, with the shape of Youtu's output."""
    monkeypatch.setattr(by_name, "_draw_people", lambda folder: open_dataset(people))
    served = server.network("some-net", net_onnx=write_foreign_model(tmp_path / "net.onnx", (-1, DIM, 1, 1)))
    monkeypatch.setattr(table, "NAMED_MODELS", (*table.NAMED_MODELS, served))
    monkeypatch.setattr("bot_deploy.models.cache.NAMED_MODELS", table.NAMED_MODELS)
    monkeypatch.setattr("bot_deploy.models.listing.NAMED_MODELS", table.NAMED_MODELS)
    return served


def run(*arguments: str) -> Any:
    """The JSON that `bot` prints with `arguments`."""
    result = CliRunner().invoke(bot, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_network_is_fetched_wrapped_and_opened_by_name(
    network: NamedModel, server: ModelServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InputError, match=r"some-net is not in the cache; `bot models --fetch some-net` fetches it"):
        open_embedder("some-net")
    artifact = prepare_model(network)
    assert artifact == tmp_path / "models" / "some-net" / "model.onnx"
    assert np.abs(open_embedder("some-net").run(CROPS) - expected_vectors(CROPS)).max() < 1e-5
    assert caplog.messages.count("some-net: MIT, the tests; training data: none") == 1
    assert "`bot calibrate some-net` measures one" in caplog.text
    assert prepare_model(network) == artifact
    assert prepare_model(network, tmp_path / "stick") == tmp_path / "stick" / "some-net" / "model.onnx"
    assert (tmp_path / "stick" / "some-net" / "model.onnx").read_bytes() == artifact.read_bytes()
    assert server.requests == ["/net.onnx"]
    assert open_embedder("some-net").contract.calibration is None
    assert open_embedder("some-net").contract.terms == network.terms


def test_a_measured_threshold_comes_with_the_name(
    network: NamedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    box_calibration = read_contract(box.PATH).calibration
    assert box_calibration
    monkeypatch.setattr(by_name, "CALIBRATIONS", tmp_path)
    by_name.calibration_path("some-net").write_text(json.dumps(dataclasses.asdict(box_calibration)))
    assert read_contract(prepare_model(network)).calibration == box_calibration
    assert "Its threshold was measured on other cameras: `bot calibrate some-net` measures one on crops" in caplog.text
    assert open_embedder("some-net").contract.calibration == box_calibration


def test_the_shipped_thresholds_are_of_networks_in_the_table() -> None:
    files = sorted(by_name.CALIBRATIONS.iterdir())
    assert "retail-0265.json" in [file.name for file in files]
    for file in files:
        assert table.find_named_network(file.stem)
        calibration = decode_calibration(json.loads(file.read_text()), str(file))
        assert calibration.target_false_accept_rate == 0.001
        assert calibration.data == "training identities of Market-1501-v15.09.15.zip"  # no path of a machine


def test_match_takes_a_name_and_says_that_it_is_not_calibrated(
    network: NamedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        Image.fromarray(CROPS[number]).save(tmp_path / f"{number}.png")
    paths = [str(tmp_path / f"{number}.png") for number in range(2)]
    document = run("match", *paths, "--model", "some-net")
    expected = expected_vectors(CROPS[:2])
    assert document["matches"][0]["score"] == pytest.approx(float(expected[0] @ expected[1]), abs=1e-5)
    assert "`bot calibrate` measures a threshold" in document["verdict"]
    monkeypatch.setenv("BOT_OFFLINE", "1")  # and now without a network
    assert run("match", *paths, "--model", "some-net") == document
    result = CliRunner().invoke(bot, ["match", *paths, "--model", "retail-0277", "--offline"])
    assert isinstance(result.exception, InputError)
    assert "retail-0277 is not in the cache, and $BOT_OFFLINE forbids" in str(result.exception)


def test_a_state_dict_becomes_a_model_file(
    server: ModelServer, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    from helpers import osnet
    from helpers.toolkits import pictures

    monkeypatch.setattr(by_name, "_draw_people", lambda folder: open_dataset(people))
    state = osnet.osnet("ain")
    torch.save(state, tmp_path / "theirs.pt")
    served = server.network("osnet-ain-small", osnet_pt=(tmp_path / "theirs.pt").read_bytes())
    taken = NetworkInput(*osnet.SIZE, "RGB", "0-1", MEAN, STD)
    network = dataclasses.replace(served, input=taken, dim=osnet.DIM)
    artifact = prepare_model(network)
    assert artifact == tmp_path / "models" / "osnet-ain-small" / "model.onnx"
    opened = open_embedder("osnet-ain-small")
    contract = opened.contract
    assert (contract.arch, contract.dim, contract.size) == ("osnet-ain", osnet.DIM, osnet.SIZE)
    assert contract.terms == network.terms
    images = pictures(size=osnet.SIZE)
    np.testing.assert_allclose(opened.run(images.numpy()), osnet.expected_vectors(state, images), atol=2e-5)
    assert prepare_model(network) == artifact
    assert server.requests == ["/osnet.pt"]


def test_a_teacher_by_name(
    network: NamedModel, server: ModelServer, few_people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from bot_deploy.train import run_files

    monkeypatch.setattr("bot_deploy.commands.train._prepare_torch", lambda: None)  # its settings outlast the test
    settings = {"arch": "mobilenet_v2", "height": 32, "width": 16, "epochs": 1, "precision": "fp32", "warmup_epochs": 1}
    settings |= {"identities_per_batch": 2, "images_per_identity": 2, "padding": 2}
    words = ["train", "--data", str(few_people), "--weights", "none", "--teacher", "some-net"]
    overrides = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    result = CliRunner().invoke(bot, [*words, "--out", str(tmp_path / "run"), *overrides], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert server.requests == ["/net.onnx"]
    model_file = tmp_path / "models" / "some-net" / "model.onnx"
    taught = read_contract(tmp_path / "run" / "model.pt").teacher
    contract = read_contract(model_file)
    assert taught == f"{contract.arch} {contract.embedding_space}"
    assert run_files.read_config(tmp_path / "run").teacher == str(model_file)


def test_the_list(network: NamedModel, tmp_path: Path) -> None:
    document = run("models")
    rows = {row["name"]: row for row in document["models"]}
    assert list(rows)[:3] == ["box", "retail-0277", "retail-0265"]
    assert (rows["box"]["cached"], rows["box"]["path"]) == (True, str(box.PATH))
    assert rows["box"]["bytes"] == box.PATH.stat().st_size
    assert (rows["retail-0277"]["bytes"], rows["retail-0277"]["licence"]) == (616_140 + 4_178_806, "Apache-2.0")
    assert rows["retail-0277"]["cached"] is False
    assert rows["some-net"]["cached"] is False
    assert [row["name"] for row in document["detectors"]] == ["yolox-nano", "yolox-tiny", "yolox-s"]

    assert rows["some-net"]["dim"] == DIM
    assert rows["some-net"]["input"] == {
        "height": 32,
        "width": 16,
        "color": "BGR",
        "pixel_range": "0-1",
        "mean": [0.1, 0.5, 0.9],
        "std": [0.2, 0.3, 0.4],
    }
    (file,) = rows["some-net"]["files"]
    assert file == {key: getattr(network.files[0], key) for key in ("address", "bytes", "checksum")}
    assert [file["address"].rpartition(".")[2] for file in rows["retail-0277"]["files"]] == ["xml", "bin"]
    assert (rows["retail-0277"]["dim"], rows["retail-0277"]["input"]["color"]) == (256, "BGR")
    # Of a model without an entry in the table, the contract says it.
    assert (rows["box"]["dim"], rows["box"]["files"]) == (1280, [])
    assert (rows["box"]["input"]["height"], rows["box"]["input"]["mean"]) == (256, [0.485, 0.456, 0.406])
    nano = document["detectors"][0]
    assert (nano["dim"], nano["input"]["width"], nano["files"][0]["checksum"][:7]) == (None, 416, "sha256:")

    document = run("models", "some-net", "--fetch", "--to", str(tmp_path / "models"), "--bench")
    (row,) = document["models"]
    assert (row["cached"], row["path"]) == (True, str(tmp_path / "models" / "some-net" / "model.onnx"))
    assert row["images_per_second"] > 0

    # An artifact of the user's own, put beside it by hand.
    mine = tmp_path / "models" / "mine" / "model.onnx"
    mine.parent.mkdir()
    shutil.copy(row["path"], mine)
    rows = {row["name"]: row for row in run("models")["models"]}
    assert (rows["mine"]["cached"], rows["mine"]["licence"]) == (True, None)
    assert rows["mine"]["bytes"] == mine.stat().st_size
    assert (rows["mine"]["dim"], rows["mine"]["input"]["height"], rows["mine"]["files"]) == (DIM, 32, [])
    assert np.abs(open_embedder("mine").run(CROPS) - expected_vectors(CROPS)).max() < 1e-5
    mine.write_bytes(b"damaged")
    rows = {row["name"]: row for row in run("models")["models"]}
    assert (rows["mine"]["bytes"], rows["mine"]["dim"], rows["mine"]["input"]) == (7, None, None)
    text = CliRunner().invoke(bot, ["models"]).output
    assert re.search(r"retail-0265 +4\.6 +Apache-2\.0 +95\.96 / 87\.72", text)
    assert "96.2 / 87.7 *" in text


def test_a_folder_for_another_machine_is_listed(network: NamedModel, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    (row,) = run("models", "some-net", "--fetch", "--to", str(stick))["models"]
    assert (row["cached"], row["path"]) == (True, str(stick / "some-net" / "model.onnx"))


def test_one_model_that_cannot_run_does_not_end_the_list(network: NamedModel, tmp_path: Path) -> None:
    prepare_model(network)
    damaged = tmp_path / "models" / "mine" / "model.onnx"
    damaged.parent.mkdir()
    damaged.write_bytes(b"damaged")
    result = CliRunner().invoke(bot, ["models", "mine", "some-net", "--bench"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert re.search(r"^mine: cannot be measured \(.*\)$", result.stderr, re.MULTILINE)
    assert re.search(r"^some-net .* yes +\d+$", result.stdout, re.MULTILINE)
    assert re.search(r"^mine .* yes +-$", result.stdout, re.MULTILINE)


def test_files_in_a_folder_that_cannot_be_written(
    network: NamedModel, server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a volume with files fetched by hand; the model file goes to the cache of the user."""
    carried = tmp_path / "carried"
    (carried / "some-net").mkdir(parents=True)
    (carried / "some-net" / "net.onnx").write_bytes(server.files["net.onnx"])
    monkeypatch.setenv("BOT_MODELS", str(carried))
    writable = by_name.check_writable
    refused = [carried]

    def check(path: Path) -> None:
        if any(path.is_relative_to(folder) for folder in refused):
            raise RunError(f"{path}: cannot be written (Read-only file system)")
        writable(path)

    monkeypatch.setattr(by_name, "check_writable", check)
    cache = tmp_path / "cache" / "bot-deploy" / "models"
    assert prepare_model(network) == cache / "some-net" / "model.onnx"
    assert np.abs(open_embedder("some-net").run(CROPS) - expected_vectors(CROPS)).max() < 1e-5
    assert not server.requests
    shutil.rmtree(cache)
    refused.append(cache)
    with pytest.raises(RunError, match=r"none of these folders can be written: .*carried.*cache.*; set \$BOT_MODELS"):
        prepare_model(network)


def test_terms_are_said_once(
    network: NamedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also those of a folder that was carried to another machine, where nothing is fetched or wrapped."""
    paths = [str(tmp_path / f"{number}.png") for number in range(2)]
    for number, path in enumerate(paths):
        Image.fromarray(CROPS[number]).save(path)
    terms = "some-net: MIT, the tests; training data: none"

    def count() -> int:
        caplog.clear()
        result = CliRunner().invoke(bot, ["match", *paths, "--model", "some-net"], catch_exceptions=False)
        # The log is on stderr too if an earlier test of this process has made a command show it.
        return max(result.stderr.count(terms), caplog.messages.count(terms))

    assert [count(), count()] == [1, 0]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    assert [count(), count()] == [1, 0]


def test_a_wrong_dimension_in_the_table(network: NamedModel) -> None:
    with pytest.raises(RunError, match=f"its embeddings have {DIM} numbers instead of 7"):
        prepare_model(dataclasses.replace(network, dim=7))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "yolox-nano"], "yolox-nano is a detector; give it as --detector"),
        (["models", "nobody"], "nobody: no name that `bot models` lists"),
        (["models", "--fetch"], "name what to fetch"),
        (["models", "retail-0277", "--to", "x"], "give --fetch too"),
        (["eval", "nobody"], "nobody: no such model file, and no name that `bot models` lists"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, server: ModelServer) -> None:
    result = CliRunner().invoke(bot, arguments)
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert not server.requests


def test_a_detector_by_name(server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = server.network("yolox-nano", net_onnx=_detector(tmp_path))
    detector = NamedDetector(
        name="yolox-nano", files=model.files, authors="x", licence="MIT", data_terms="none", input=model.input
    )
    monkeypatch.setattr(table, "NAMED_DETECTORS", (detector,))
    assert choose_detector(None) == Path("hog")
    assert _commands_that_say_hog(tmp_path) == ["demo", "index"]
    monkeypatch.setenv("BOT_OFFLINE", "1")
    with pytest.raises(InputError, match=r"yolox-nano is not in the cache, and \$BOT_OFFLINE forbids"):
        open_detector("yolox-nano")
    monkeypatch.delenv("BOT_OFFLINE")
    opened = open_detector("yolox-nano", min_height=1)
    assert opened.name == "YOLO net.onnx 64x96"
    found = opened.detect(np.zeros((64, 96, 3), np.uint8))
    np.testing.assert_allclose(found.xyxy, [[25, 5, 35, 35]])
    assert choose_detector(None) == tmp_path / "models" / "yolox-nano" / "net.onnx"
    assert open_detector().name == opened.name  # the default of `bot demo` is that of Python
    assert not _commands_that_say_hog(tmp_path)
    assert server.requests == ["/net.onnx"]
    (tmp_path / "models" / "yolox-nano" / "net.onnx").write_bytes(_detector(tmp_path)[:-1])  # half of it
    assert choose_detector(None) == Path("hog")


def _commands_that_say_hog(folder: Path) -> list[str]:
    """Those commands that say, for a video without --detector, that they fall back to HOG."""
    video = folder / "x.mp4"
    video.touch()
    commands = {"demo": ["--source", str(video), "--headless"], "index": [str(video), "-o", str(folder / "x.gallery")]}
    said = {name: CliRunner().invoke(bot, [name, *words, "--model", "box"]).stderr for name, words in commands.items()}
    return [name for name, text in said.items() if "so OpenCV's HOG looks for people, and misses many of them" in text]


def _detector(folder: Path) -> bytes:
    """A network with one person for every picture, in the layout of YOLOv8."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    output = np.zeros((1, 84, 126), np.float32)
    output[0, :5, 5] = (30, 20, 10, 30, 0.8)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["constant"], ["output0"])],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 96])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 84, 126])],
        [numpy_helper.from_array(output, "constant")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "d.onnx")
    return (folder / "d.onnx").read_bytes()


@pytest.mark.slow
def test_a_real_network_passes_the_whole_way(
    shared: Path, few_people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files at hand, put into the folder of their name: match, index, calibrate, eval, bench and demo."""
    pytest.importorskip("openvino")
    shutil.copytree(shared / "anchors" / "person-reidentification-retail-0265", tmp_path / "models" / "retail-0265")
    monkeypatch.setenv("BOT_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("BOT_OFFLINE", "1")
    gallery, query = few_people / "bounding_box_test", next((few_people / "query").iterdir())
    document = run("match", str(query), str(gallery), "--model", "retail-0265")
    assert document["model"] == str(tmp_path / "models" / "retail-0265" / "model.xml")
    assert "bot calibrate" in document["verdict"]
    index = str(tmp_path / "people.gallery")
    images = run("index", str(gallery), "-o", index, "--model", "retail-0265")["images"]
    assert images == len(list(gallery.iterdir()))
    assert run("match", str(query), index, "--model", "retail-0265")["matches"] == document["matches"]
    # The table has 68.99 / 76.80; a wrong order of colours gives 30.
    assert run("eval", "retail-0265", "--data", str(shared / "data" / "VIPeR.v1.0.zip"))["rank1"] > 68
    calibration = run("calibrate", "retail-0265", "--data", str(few_people), "--far", "0.2")
    assert run("match", str(query), index, "--model", "retail-0265")["decision"] in {"match", "uncertain", "no match"}
    assert open_embedder("retail-0265").contract.calibration.threshold == calibration["threshold"]  # type: ignore[union-attr]
    bench = run("bench", "retail-0265", "--seconds", "0", "--batches", "1", "--device", "openvino")
    assert bench["entries"][0]["model_only"]["latency_ms"]["p50"] > 0
    frames = tmp_path / "frames"
    frames.mkdir()
    shutil.copy(query, frames / "1.jpg")
    options = ["--source", str(frames), "--gallery", str(tmp_path / "seen.gallery"), "--headless", "--detector", "hog"]
    assert run("demo", *options, "--model", "retail-0265")["frames"] == 1
