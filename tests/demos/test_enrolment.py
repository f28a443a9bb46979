"""Who is known, and how they are enrolled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_camera import BLUE, CONTRACT, GREEN, ORANGE, RED, embed, embedder, scene
from PIL import Image

from bot_deploy import gallery as galleries
from bot_deploy.artifacts.contract import Calibration
from bot_deploy.demos.enrolment import open_people
from bot_deploy.errors import InputError, RunError
from bot_deploy.matching.identify import SEARCH_SIZE, UNCALIBRATED_THRESHOLD, UNCERTAIN_MARGIN

WHOLE = (0, 0, 320, 240)


def picture(colour: tuple[int, int, int]) -> np.ndarray:
    return scene((colour, WHOLE))


def vector(colour: tuple[int, int, int]) -> np.ndarray:
    return embed(picture(colour)[None])[0]


def test_enrolled_people_are_found_again_by_another_program(tmp_path: Path) -> None:
    address = str(tmp_path / "people.gallery")
    people = open_people(address, embedder())
    assert people.candidates(vector(RED)) == []
    people.enrol("Ann", picture(RED), vector(RED))
    people.enrol("Bob", picture(GREEN), vector(GREEN))
    people.gallery.close()

    again = open_people(address, embedder())
    assert len(again) == 2
    ann, bob = again.candidates(vector(RED))
    assert (ann.name, bob.name) == ("Ann", "Bob")
    assert ann.score == pytest.approx(1, abs=1e-3)
    assert bob.score == pytest.approx(vector(RED) @ vector(GREEN), abs=1e-3)
    np.testing.assert_array_equal(np.asarray(Image.open(ann.picture)), picture(RED))
    again.gallery.close()


def test_what_was_enrolled_is_to_the_index_as_if_it_had_been_indexed(tmp_path: Path) -> None:
    address = tmp_path / "people.gallery"
    people = open_people(str(address), embedder())
    people.enrol("Ann", picture(RED), vector(RED))
    people.gallery.close()
    with galleries.open_gallery(str(address), CONTRACT) as store:
        done = galleries.index_folder(store, address / "crops", embedder())
        (row,) = store.items()
    assert (done.new, done.changed, done.vanished, done.unchanged) == (0, 0, 0, 1)
    assert row.identity == "Ann"
    assert row.time is not None


def test_a_folder_of_crops_is_a_gallery_and_enrols_into_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "people"
    (folder / "Ann").mkdir(parents=True)
    Image.fromarray(picture(RED)).save(folder / "Ann" / "one.png")
    Image.fromarray(picture(BLUE)).save(folder / "nobody-said-who.png")
    people = open_people(str(folder), embedder())
    assert {one.name for one in people.candidates(vector(ORANGE))} == {"Ann", "nobody-said-who"}
    people.enrol("Carl", picture(ORANGE), vector(ORANGE))
    people.gallery.close()
    assert len(list((folder / "Carl").iterdir())) == 1
    again = open_people(str(folder), embedder())
    assert again.candidates(vector(ORANGE))[0].name == "Carl"
    again.gallery.close()


def test_several_pictures_of_one_person_are_one_candidate_with_the_best_score(tmp_path: Path) -> None:
    people = open_people(str(tmp_path / "g"), embedder())
    for colour in (RED, ORANGE):
        people.enrol("Ann", picture(colour), vector(colour))
    people.enrol("Bob", picture(BLUE), vector(BLUE))
    found = people.candidates(vector(ORANGE))
    assert [one.name for one in found] == ["Ann", "Bob"]
    assert found[0].score == pytest.approx(1, abs=1e-3)
    assert len(list((tmp_path / "g" / "crops" / "Ann").iterdir())) == 2  # in the same second, perhaps
    assert len(people) == 2
    people.gallery.close()


def test_junk_and_distractors_are_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "crops"
    folder.mkdir()
    for name, colour in (("0007_c1s1_000001_00", RED), ("-1_c1s1_000001_01", BLUE), ("0000_c1s1_000001_02", GREEN)):
        Image.fromarray(picture(colour)).save(folder / f"{name}.png")
    people = open_people(str(folder), embedder())
    assert len(people) == 1
    assert [one.name for one in people.candidates(vector(BLUE))] == ["0007"]
    people.gallery.close()


def test_many_pictures_of_one_person_hide_nobody(tmp_path: Path) -> None:
    people = open_people(str(tmp_path / "g"), embedder())
    for shade in range(SEARCH_SIZE + 6):
        people.enrol("Ann", picture((200, shade, 0)), vector((200, shade, 0)))
    people.enrol("Bob", picture(BLUE), vector(BLUE))
    assert [one.name for one in people.candidates(vector(RED))] == ["Ann", "Bob"]
    people.gallery.close()


def test_two_programs_do_not_give_one_name_twice(tmp_path: Path) -> None:
    one, other = (open_people(str(tmp_path / "g"), embedder()) for _ in range(2))
    one.enrol(one.next_name(), picture(RED), vector(RED))
    other.enrol(other.next_name(), picture(BLUE), vector(BLUE))
    assert {found.name for found in one.candidates(vector(RED))} == {"person-1", "person-2"}
    one.gallery.close()
    other.gallery.close()


def test_a_gallery_that_was_moved_keeps_its_pictures(tmp_path: Path) -> None:
    people = open_people(str(tmp_path / "old"), embedder())
    people.enrol("Ann", picture(RED), vector(RED))
    people.gallery.close()
    (tmp_path / "old").rename(tmp_path / "new")
    people = open_people(str(tmp_path / "new"), embedder())
    assert people.candidates(vector(RED))[0].picture.is_file()
    people.gallery.close()


def test_automatic_names_are_free_ones(tmp_path: Path) -> None:
    people = open_people(str(tmp_path / "g"), embedder())
    assert people.next_name() == "person-1"
    people.enrol("Person-1", picture(RED), vector(RED))  # some file systems see no difference
    people.enrol("person-3", picture(BLUE), vector(BLUE))
    assert people.next_name() == "person-2"
    people.gallery.close()


def test_decisions_without_calibration(tmp_path: Path) -> None:
    people = open_people(str(tmp_path / "g"), embedder())
    scores = (UNCALIBRATED_THRESHOLD, UNCALIBRATED_THRESHOLD - 0.01, UNCALIBRATED_THRESHOLD - UNCERTAIN_MARGIN - 0.01)
    assert [people.decide(score) for score in scores] == ["match", "uncertain", "no match"]
    assert people.outlier_threshold == pytest.approx(UNCALIBRATED_THRESHOLD - UNCERTAIN_MARGIN)
    assert "not calibrated" in people.rule
    people.gallery.close()
    strict = open_people(str(tmp_path / "g"), embedder(), 0.8)
    assert strict.decide(0.79) == "uncertain"
    strict.gallery.close()


def test_decisions_are_those_of_the_calibration_unless_a_score_is_given(tmp_path: Path) -> None:
    curve = ((0.0, 0.5), (0.3, 0.01), (0.7, 0.001))
    calibration = Calibration(
        data="x",
        genuine=9,
        impostor=9,
        target=1e-3,
        threshold=0.7,
        reject_threshold=0.3,
        false_reject_rate=0.1,
        curve=curve,
    )
    model = embedder(replace(CONTRACT, calibration=calibration))
    people = open_people(str(tmp_path / "g"), model)
    people.enrol("Ann", picture(RED), vector(RED))
    assert [people.decide(score) for score in (0.71, 0.69, 0.29)] == ["match", "uncertain", "no match"]
    assert people.outlier_threshold == 0.3
    people.gallery.close()
    lax = open_people(str(tmp_path / "g"), model, 0.4)
    assert lax.decide(0.45) == "match"
    lax.gallery.close()


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "", " ", ".", "cam1", "0000", "-1", "2026-01-31", "query", 'a"b', "a\nb", 300 * "x"]
)
def test_names_that_cannot_be_a_folders_are_refused(name: str, tmp_path: Path) -> None:
    people = open_people(str(tmp_path / "g"), embedder())
    with pytest.raises(InputError):
        people.enrol(name, picture(RED), vector(RED))
    assert len(people.gallery) == 0
    people.gallery.close()


def test_a_name_in_any_script(tmp_path: Path) -> None:
    people = open_people(str(tmp_path / "g"), embedder())
    people.enrol("Zoë 张伟", picture(RED), vector(RED))
    assert people.candidates(vector(RED))[0].name == "Zoë 张伟"
    people.gallery.close()


def test_a_gallery_of_another_model_is_refused(tmp_path: Path) -> None:
    open_people(str(tmp_path / "g"), embedder()).gallery.close()
    with pytest.raises(InputError, match="another model"):
        open_people(str(tmp_path / "g"), embedder(replace(CONTRACT, fingerprint="other")))


def test_pictures_that_cannot_be_kept_are_said(tmp_path: Path) -> None:
    people = open_people(str(tmp_path / "g"), embedder())
    (tmp_path / "g" / "crops").write_text("in the way")
    with pytest.raises(RunError, match="cannot be kept"):
        people.enrol("Ann", picture(RED), vector(RED))
    assert len(people.gallery) == 0
    people.gallery.close()
