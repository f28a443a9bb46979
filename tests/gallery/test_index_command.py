"""`bot index`, and `bot match` with what it made."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import run_bot
from helpers.fake_camera import write_colour_model
from helpers.random_gallery import draw, needs_faiss, needs_milvus

from bot_deploy import cli, images
from bot_deploy.commands import index as command
from bot_deploy.gallery import LocalIndex, parse_name, scan


def test_index_and_match(onnx_file: Path, people: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(people / "bounding_box_test", tmp_path / "crops"))
    (root / "broken.jpg").write_bytes(b"")
    query = sorted((people / "query").iterdir())[0]
    camera = parse_name(query.name).camera
    out = tmp_path / "people.gallery"
    command = ("index", root, "-o", out, "--model", onnx_file, "--json")
    documents = []
    for _ in range(2):
        done = run_bot(*command, XDG_CACHE_HOME=str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert f"left out: {root}/broken.jpg: the file is empty" in done.stderr
        documents.append(json.loads(done.stdout))
    total = len(images.find_images(root)) - 1
    assert [document["new"] for document in documents] == [total + 1, 0]
    assert [document["unchanged"] for document in documents] == [0, total + 1]
    assert documents[1]["images"] == total
    assert documents[1]["broken_files"] == [{"path": f"{root}/broken.jpg", "error": "the file is empty"}]

    def matches(gallery: object, *options: object) -> Any:
        done = run_bot("match", query, gallery, "--model", onnx_file, "--json", *options, XDG_CACHE_HOME=str(tmp_path))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    everything = matches(out, "--top", 1000)
    assert everything == matches(root, "--top", 1000)
    assert len(everything["matches"]) == total
    for found in everything["matches"]:
        seen = parse_name(Path(found["path"]).name)
        assert (found["identity"], found["camera"], found["time"]) == tuple(seen)
    others = [found for found in everything["matches"] if found["camera"] != camera]
    assert 0 < len(others) < total

    def paths(found: list[dict[str, Any]]) -> list[str]:
        return [one["path"] for one in found]

    assert paths(matches(out, "--exclude-same-camera", "--top", 1000)["matches"]) == paths(others)
    assert paths(matches(out, "--exclude-camera", camera, "--top", 4)["matches"]) == paths(others)[:4]
    edge = everything["matches"][5]["score"]
    assert len(matches(out, "--top", 1000, "--min-score", edge)["matches"]) == 6
    same = [found for found in everything["matches"] if found["camera"] == camera]
    assert paths(matches(out, "--camera", camera, "--top", 1000)["matches"]) == paths(same)
    times = sorted(found["time"] for found in everything["matches"])
    middle = times[len(times) // 2]
    late = [found for found in everything["matches"] if found["time"] >= middle]
    assert paths(matches(out, "--since", middle, "--top", 1000)["matches"]) == paths(late)


def bot_here(*words: object) -> None:
    """`bot` in this process."""
    with pytest.raises(SystemExit) as done:
        cli.main([str(word) for word in words])
    assert done.value.code == 0


@needs_milvus
def test_index_and_match_by_milvus(onnx_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(30):
        draw(tmp_path / "crops" / f"{seed:02d}_c{seed % 2}.bmp", seed)
    found = []
    for out in ("people.gallery", "people.db"):
        bot_here("index", tmp_path / "crops", "-o", tmp_path / out, "--model", onnx_file)
        capsys.readouterr()
        options = ("--model", onnx_file, "--top", 100, "--exclude-same-camera", "--json")
        bot_here("match", tmp_path / "crops" / "03_c1.bmp", tmp_path / out, *options, "--rerank")
        found.append({one["path"]: one["score"] for one in json.loads(capsys.readouterr().out)["matches"]})
    assert len(found[0]) == 15
    assert found[1] == pytest.approx(found[0], abs=2e-5)  # the local index rounds vectors to fp16


@needs_faiss
def test_the_graph_is_remembered_until_it_is_dropped(
    onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "crops", tmp_path / "people.gallery"
    for seed in range(30):
        draw(root / f"{seed:02d}.bmp", seed)

    def index(*options: str) -> tuple[dict[str, Any], str]:
        bot_here("index", root, "-o", out, "--model", onnx_file, "--json", *options)
        said = capsys.readouterr()
        return json.loads(said.out), said.err

    def graphs() -> dict[str, int]:
        with LocalIndex(out) as gallery, gallery._reading() as (state, mapped):
            graph = gallery._graphs.open(state.generation, mapped)
            return {path.name: graph.size if graph else 0 for path in out.glob("hnsw-*")}

    assert "recall10" not in index()[0]
    assert graphs() == {}
    assert index("--ann", "hnsw")[0]["recall10"] == 1  # of 30, it finds all
    assert graphs() == {"hnsw-1.faiss": 30}
    document, said = index()
    assert "recall10" not in document  # nothing has changed
    assert "building" not in said
    draw(root / "30.bmp", 30)
    with monkeypatch.context() as without:
        without.setattr(command, "find_spec", lambda name: None)
        document, said = index()
    assert (document["new"], "recall10" in document) == (1, False)
    assert "the graph of approximate search is not updated: FAISS is not installed" in said
    assert graphs() == {"hnsw-1.faiss": 30}
    document, said = index()
    assert (document["new"], document["recall10"]) == (0, 1)
    assert "building the graph" in said
    assert graphs() == {"hnsw-1.faiss": 31}
    for seed in range(20):  # most of it: the vectors move, and the graph with them
        (root / f"{seed:02d}.bmp").unlink()
    assert index()[0]["recall10"] == 1
    assert graphs() == {"hnsw-2.faiss": 11}
    assert "recall10" not in index("--ann", "none")[0]
    assert graphs() == {}
    draw(root / "31.bmp", 31)
    assert "recall10" not in index()[0]
    assert graphs() == {}


def test_a_graph_without_faiss_is_refused_before_work(
    onnx_file: Path, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(SystemExit) as done:
        cli.main(["index", str(crops), "-o", str(tmp_path / "x"), "--ann", "hnsw", "--model", str(onnx_file)])
    assert done.value.code == 1
    assert capsys.readouterr().err == "bot: faiss is not installed; pip install 'bot-deploy[scale]'\n"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["index", "{crops}", "-o", "{tmp}/crops", "--model", "{model}"], "holds something else"),
        (["index", "{tmp}/none", "-o", "{tmp}/x.gallery", "--model", "{model}"], "none: no such folder"),
        (
            ["index", "{crops}", "-o", "milvus://h/n", "--ann", "hnsw", "--model", "{model}"],
            "--ann is for an index in a folder",
        ),
        (["index", "{crops}", "-o", "{tmp}/x", "--metadata", "{tmp}/no.csv", "--model", "{model}"], "no.csv: not a"),
    ],
)
def test_wrong_usage_is_one_line(words: list[str], message: str, onnx_file: Path, crops: Path, tmp_path: Path) -> None:
    names = {"crops": crops, "tmp": tmp_path, "model": onnx_file}
    done = run_bot(*(word.format(**names) for word in words), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_flood_of_broken_files_is_summarised(
    onnx_file: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "crops"
    pictures = [draw(root / f"{seed}.bmp", seed) for seed in range(3)]
    for number in range(300):
        (root / f"broken_{number:03d}.jpg").touch()
    model = ("--model", onnx_file, "--json")
    for words in (
        ("index", root, "-o", tmp_path / "x.gallery", *model),
        ("match", pictures[0], tmp_path / "x.gallery", *model),
        ("match", root, pictures[0], *model),
        ("embed", root, "-o", tmp_path / "x.npy", *model),
        ("doctor", onnx_file, "--images", root, "--count", 1000, "--json"),
    ):
        bot_here(*words)
        printed = capsys.readouterr()
        lines = [line for line in printed.err.splitlines() if line.startswith("left out: ")]
        assert len(lines) == 11, words
        assert lines[-1] == "left out: 290 more files; --json names all of them"
        document = json.loads(printed.out)
        broken = document.get("broken_queries") or document.get("broken_files") or document["gallery"]["broken_files"]
        assert len(broken) == 300
        assert all(Path(file["path"]).is_file() and file["path"] not in file["error"] for file in broken)


def test_another_folder_needs_add_or_replace(
    onnx_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(4):
        draw(tmp_path / ("first" if seed < 2 else "second") / f"person {seed}" / "1.bmp", seed)
    out = tmp_path / "people.gallery"

    def index(folder: str, *options: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["index", str(tmp_path / folder), "-o", str(out), "--model", str(onnx_file), "--json", *options])
        return int(str(ended.value.code)), capsys.readouterr().err

    assert index("first")[0] == 0
    code, error = index("second")
    assert (code, "`bot index --add` keeps them" in error) == (2, True)
    assert index("second", "--add", "--replace")[0] == 2
    for options, expected in ((("--add",), 4), (("--verify",), 4), (("--replace",), 2)):
        assert index("second", *options)[0] == 0
        with LocalIndex(out) as gallery:
            assert len(gallery) == expected


def test_an_empty_gallery_is_said(onnx_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bot_deploy.embedder import open_embedder
    from bot_deploy.gallery import open_or_create_index

    open_or_create_index(str(tmp_path / "x.gallery"), open_embedder(onnx_file).contract, tmp_path / "crops").close()
    bot_here("match", draw(tmp_path / "q.bmp", 0), tmp_path / "x.gallery", "--model", onnx_file)
    assert "an empty gallery, so nobody can be found in it" in capsys.readouterr().err


def test_names_that_contradict_each_other_are_refused_after_one_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scans: list[Path] = []
    scan_images = scan.scan_images
    for place in ("bot_deploy.gallery", "bot_deploy.gallery.indexing"):
        monkeypatch.setattr(f"{place}.scan_images", lambda folder: (scans.append(folder), scan_images(folder))[1])
    for number, name in enumerate(("alice/1.png", "alice/extra/2.png", "bob/3.png")):
        draw(tmp_path / "crops" / name, number)
    (tmp_path / "names.csv").write_text("path,identity\nalice/1.png,alice\nalice/extra/2.png,eve\n")
    model = write_colour_model(tmp_path / "model.onnx")
    index = ["index", str(tmp_path / "crops"), "-o", str(tmp_path / "x.gallery"), "--model", str(model)]
    with pytest.raises(SystemExit) as ended:
        cli.main(index)
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert lines[0] == "3 crops of 1 identity from 0 known cameras; 2 without identity"
    assert "alice/1.png lies beside the folder of alice/extra/2.png" in lines[-1]
    assert lines[-1].endswith("or move them (--metadata)")
    assert len(scans) == 1
    bot_here(*index, "--metadata", tmp_path / "names.csv")
    assert len(scans) == 2
    with LocalIndex(tmp_path / "x.gallery") as gallery:
        assert sorted(str(item.identity) for item in gallery.items()) == ["alice", "bob", "eve"]
