"""Enrolment: names, crops and galleries."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_camera import BLUE, CONTRACT, GREEN, ORANGE, RED, crop_of, embedder, enrol, enrolled_names, vector_of
from PIL import Image

from bot_deploy import gallery as galleries
from bot_deploy.demos import enrolment
from bot_deploy.demos.enrolment import Enroller, check_name, open_enrolment_gallery
from bot_deploy.errors import InputError, RunError
from bot_deploy.gallery import GalleryItem, Index
from bot_deploy.matching.identify import PersonIdentifier

# A program that opens the gallery g, waits for the file go, and enrols one stranger.
ENROL_WHEN_RELEASED = """
import os, sys, time
from pathlib import Path
from helpers.fake_camera import RED, crop_of, embedder, vector_of
from bot_deploy.demos.enrolment import Enroller, open_enrolment_gallery
folder = Path(sys.argv[1])
enroller = Enroller(open_enrolment_gallery(str(folder / "g"), embedder()))
crop, vector = crop_of(RED), vector_of(RED)
(folder / f"ready-{os.getpid()}").touch()
while not (folder / "go").exists():
    time.sleep(0.001)
print(enroller.enrol_stranger(crop, vector).name)
"""


def candidate_names(gallery: Index, colour: tuple[int, int, int]) -> list[str]:
    """Names of the candidates for a crop of this colour, best first."""
    return [candidate.name for candidate in PersonIdentifier(gallery, None).candidates(vector_of(colour))]


@contextmanager
def opened(address: Path) -> Iterator[Index]:
    with closing(open_enrolment_gallery(str(address), embedder())) as gallery:
        yield gallery


def test_another_program_finds_enrolled_people(tmp_path: Path) -> None:
    with opened(tmp_path / "people.gallery") as gallery:
        assert candidate_names(gallery, RED) == []
        enrol(gallery, Ann=RED, Bob=GREEN)
    with opened(tmp_path / "people.gallery") as gallery:
        assert Enroller(gallery).names == {"Ann", "Bob"}
        ann, bob = PersonIdentifier(gallery, None).candidates(vector_of(RED))
        assert (ann.name, bob.name) == ("Ann", "Bob")
        assert ann.score == pytest.approx(1, abs=1e-3)
        assert bob.score == pytest.approx(vector_of(RED) @ vector_of(GREEN), abs=1e-3)
        np.testing.assert_array_equal(np.asarray(Image.open(ann.crop_path)), crop_of(RED))


def test_enrolled_crops_are_like_indexed_ones(tmp_path: Path) -> None:
    address = tmp_path / "people.gallery"
    with opened(address) as gallery:
        enrol(gallery, Ann=RED)
    with galleries.open_index(str(address), CONTRACT) as index:
        update = galleries.index_folder(index, address / "crops", embedder())
        (item,) = index.items()
    assert (update.new, update.changed, update.removed, update.unchanged) == (0, 0, 0, 1)
    assert item.identity == "Ann"
    assert item.time is not None


def test_a_folder_of_crops_is_a_gallery_and_gets_new_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "people"
    (folder / "Ann").mkdir(parents=True)
    Image.fromarray(crop_of(RED)).save(folder / "Ann" / "one.png")
    Image.fromarray(crop_of(BLUE)).save(folder / "no-identity.png")
    with opened(folder) as gallery:
        assert set(candidate_names(gallery, ORANGE)) == {"Ann", "no-identity"}
        enrol(gallery, Carl=ORANGE)
    assert len(list((folder / "Carl").iterdir())) == 1
    with opened(folder) as gallery:
        assert candidate_names(gallery, ORANGE)[0] == "Carl"


def test_two_crops_of_one_person_in_the_same_second(tmp_path: Path) -> None:
    with opened(tmp_path / "g") as gallery:
        enrol(gallery, Ann=RED)
        enrol(gallery, Ann=ORANGE)
        assert enrolled_names(gallery) == {"Ann"}
        assert len(gallery) == 2
    assert len(list((tmp_path / "g" / "crops" / "Ann").iterdir())) == 2


def test_two_programs_give_different_automatic_names(tmp_path: Path) -> None:
    with opened(tmp_path / "g") as first, opened(tmp_path / "g") as second:
        enrollers = Enroller(first), Enroller(second)
        for enroller, colour in zip(enrollers, (RED, BLUE), strict=True):
            enroller.enrol_stranger(crop_of(colour), vector_of(colour))
        assert set(candidate_names(first, RED)) == {"person-1", "person-2"}


@pytest.mark.slow
def test_twenty_programs_released_together_take_twenty_names(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", ENROL_WHEN_RELEASED, tmp_path], stdout=subprocess.PIPE, text=True)
        for _ in range(20)
    ]
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("ready-*"))) < 20 and time.monotonic() < deadline:
        time.sleep(0.05)
    (tmp_path / "go").touch()
    names = [process.communicate(timeout=120)[0].strip() for process in processes]
    expected = {f"person-{number}" for number in range(1, 21)}
    assert (len(names), set(names)) == (20, expected)
    with opened(tmp_path / "g") as gallery:
        assert (len(gallery), enrolled_names(gallery)) == (20, expected)


@pytest.mark.parametrize("address", ["g", "g.db"])
def test_machines_that_share_only_the_vectors_take_different_names(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its own folder of crops, and both have added person-1 before either looks."""
    monkeypatch.setattr(enrolment, "MAX_RETRY_WAIT_S", 0.05)
    both_added = threading.Barrier(2)
    names: list[str] = []

    def enrol_on(machine: str) -> None:
        with opened(tmp_path / address) as gallery:
            gallery.root = tmp_path / machine
            add = gallery.add

            def add_and_wait(items: list[GalleryItem], vectors: np.ndarray) -> None:
                add(items, vectors)
                monkeypatch.setattr(gallery, "add", add)  # waits once
                both_added.wait(60)

            monkeypatch.setattr(gallery, "add", add_and_wait)
            names.append(Enroller(gallery).enrol_stranger(crop_of(RED), vector_of(RED)).name)

    with opened(tmp_path / address) as gallery:
        threads = [threading.Thread(target=enrol_on, args=(machine,)) for machine in ("one", "two")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        items = list(gallery.items())
    assert len(set(names)) == len(names) == 2
    assert sorted(item.identity or "" for item in items) == sorted(names)
    pictures = [path for machine in ("one", "two") for path in (tmp_path / machine).rglob("*.png")]
    assert sorted(path.parent.name for path in pictures) == sorted(names)


def test_a_folder_that_another_program_has_just_made_is_taken(tmp_path: Path) -> None:
    with opened(tmp_path / "g") as gallery:
        (gallery.root / "person-1").mkdir(parents=True)
        assert Enroller(gallery).enrol_stranger(crop_of(RED), vector_of(RED)).name == "person-2"


def test_a_failed_enrolment_gives_the_automatic_name_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path / "g") as gallery:
        enroller = Enroller(gallery)

        def full(_: Path) -> bytes:
            raise RunError("No space left")

        with monkeypatch.context() as patch:
            patch.setattr(enrolment.galleries, "file_digest", full)
            with pytest.raises(RunError, match="No space left"):
                enroller.enrol_stranger(crop_of(RED), vector_of(RED))
        assert enroller.enrol_stranger(crop_of(RED), vector_of(RED)).name == "person-1"


def test_a_gallery_that_was_moved_keeps_its_crops(tmp_path: Path) -> None:
    with opened(tmp_path / "old") as gallery:
        enrol(gallery, Ann=RED)
    (tmp_path / "old").rename(tmp_path / "new")
    with opened(tmp_path / "new") as gallery:
        assert PersonIdentifier(gallery, None).candidates(vector_of(RED))[0].crop_path.is_file()


def test_automatic_names_are_unused(tmp_path: Path) -> None:
    with opened(tmp_path / "g") as gallery:
        enroller = Enroller(gallery)
        enroller.enrol("Person-1", crop_of(RED), vector_of(RED))  # the same folder on some file systems
        enroller.enrol("person-3", crop_of(BLUE), vector_of(BLUE))
        assert enroller.enrol_stranger(crop_of(GREEN), vector_of(GREEN)).name == "person-2"


UNUSABLE_NAMES = (
    *("../x", "a/b", "", " ", ".", "a ", "a.", "cam1", "0000", "-1", "2026-01-31", "query", 'a"b', "a\nb", 300 * "x"),
    *("con", "Con.txt", "NUL", "aux .x", "com1", "LPT\u00b9", "conin$"),  # devices of Windows
    *("a\udcff", "a\x85b", "a\x1b[31m", "\u202egpj", "a\u200bb", "a\x7f", "a\u2028b", "x\ufeff"),  # not visible
)


@pytest.mark.parametrize("name", UNUSABLE_NAMES)
def test_names_that_cannot_be_a_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        check_name(name)
    with opened(tmp_path / "g") as gallery:
        with pytest.raises(InputError):
            Enroller(gallery).enrol(name, crop_of(RED), vector_of(RED))
        assert len(gallery) == 0


def test_a_name_in_any_script(tmp_path: Path) -> None:
    with opened(tmp_path / "g") as gallery:
        enrol(gallery, **{"Zoë 张伟": RED})
        assert candidate_names(gallery, RED) == ["Zoë 张伟"]


def test_a_gallery_of_another_model_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "g"), pytest.raises(InputError, match="another model"):
        open_enrolment_gallery(str(tmp_path / "g"), embedder(replace(CONTRACT, fingerprint="other")))


def test_a_crop_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with opened(tmp_path / "g") as gallery:
        (tmp_path / "g" / "crops").write_text("a file in place of the folder")
        with pytest.raises(RunError, match="cannot be written"):
            Enroller(gallery).enrol("Ann", crop_of(RED), vector_of(RED))
        assert len(gallery) == 0
