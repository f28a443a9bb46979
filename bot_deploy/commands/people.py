"""`bot people`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .model_choice import choose_model, say_cameras
from .options import JSON, MODEL, OFFLINE, Address, NumberRange

if TYPE_CHECKING:
    from bot_deploy.footage import Appearance
    from bot_deploy.matching.people import SeenPerson


@click.command()
@click.argument("gallery", type=Address(), metavar="GALLERY")
@MODEL
@click.option(
    "--threshold",
    type=NumberRange(-1, 1),
    help="Cosine from which appearances show one person; default: by `bot calibrate`, or 0.6.",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="WHO=NAME",
    help="Name a person by number (3=Anna), or one appearance (entrance-1f0c6a2b/0012=Anna); without NAME, the name is "
    "removed. People of one name are one person. Repeatable.",
)
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="F.html", help="Write the people as one page, images included."
)
@click.option(
    "--csv", type=click.Path(path_type=Path), metavar="F.csv", help="Write a table with one row for each appearance."
)
@OFFLINE
@JSON
def people(
    gallery: str,
    model: Path | None,
    threshold: float | None,
    names: tuple[str, ...],
    html: Path | None,
    csv: Path | None,
    as_json: bool,
) -> None:
    """Count the people in the videos of GALLERY, and show the path of each through the cameras.

    Appearances that look alike are put together; two people in view of one camera at one time never are. `bot match`
    and `bot demo` use the names that you give.
    """
    from bot_deploy import gallery as galleries
    from bot_deploy.addresses import mask_address
    from bot_deploy.artifacts import read_contract
    from bot_deploy.camera_means import camera_means_of
    from bot_deploy.console import say, show, show_json
    from bot_deploy.files import prepare_output
    from bot_deploy.footage import Footage
    from bot_deploy.matching.centered_gallery import CenteredGallery
    from bot_deploy.matching.people import choose_threshold, group_people, list_appearances, name_people
    from bot_deploy.reports import page, people_page
    from bot_deploy.reports.tables import write_people_csv

    given = _parse_names(names)
    if html:
        prepare_output(html, "a page", page.SUFFIXES)
    if csv:
        prepare_output(csv, "a table", {".csv"})
    galleries.check_gallery(gallery)
    contract = read_contract(choose_model(model))
    means = camera_means_of(contract)
    say_cameras(contract)
    with galleries.open_index(gallery, contract) as index:
        footage = Footage(index)
        searched = CenteredGallery(index, means) if means else index
        cosine = choose_threshold(contract.calibration, threshold)
        found = group_people(list_appearances(searched, footage), cosine)
        if given:
            name_people(index, found, given)
            found = group_people(list_appearances(searched, footage), cosine)
        if html:
            people_page.write_people(
                found,
                f"{mask_address(gallery)}: appearances with a cosine of {cosine:.3f} or more count as one person",
                index.root,
                html,
            )
        if csv:
            write_people_csv(found, index.root, csv)
        for path in filter(None, (html, csv)):
            say(f"wrote {path}")
    if as_json:
        show_json(_document(mask_address(gallery), found, cosine))
    else:
        show(*_lines(found, cosine))


def _parse_names(names: tuple[str, ...]) -> dict[str, str | None]:
    """WHO=NAME as a table; an empty NAME removes one."""
    from bot_deploy.demos.enrolment import check_name
    from bot_deploy.errors import InputError

    parsed: dict[str, str | None] = {}
    for text in names:
        who, equals, name = text.partition("=")
        if not equals:
            raise InputError(f"{text}: write WHO=NAME, such as 3=Anna", parameter="name")
        if name:
            check_name(name)
        parsed[who] = name or None
    return parsed


def _document(gallery: str, found: list[SeenPerson], threshold: float) -> dict[str, object]:
    return {
        "gallery": gallery,
        "threshold": threshold,
        "count": len(found),
        "people": [
            {
                "number": person.number,
                "name": person.name,
                "appearances": [
                    {"name": one.name, **_appearance_document(one.appearance)} for one in person.appearances
                ],
            }
            for person in found
        ],
    }


def _appearance_document(appearance: Appearance) -> dict[str, object]:
    from bot_deploy.reports.tables import appearance_document

    return {
        "appearance": appearance.short_key,
        **appearance_document(appearance),
        "pictures": list(appearance.crops),
    }


def _lines(found: list[SeenPerson], threshold: float) -> list[str]:
    from bot_deploy.footage.times import format_span

    lines = []
    for person in found:
        path = ", ".join(f"{one.appearance.camera} {format_span(one.appearance)[0]}" for one in person.appearances)
        name = f", {person.name}" if person.name else ""
        name += f" ({person.note})" if person.note else ""
        lines.append(f"person {person.number}{name}: {path}")
    appearances = sum(len(person.appearances) for person in found)
    lines.append(
        f"{len(found)} people in {appearances} appearances; a cosine of {threshold:.3f} or more counts as one person"
    )
    return lines
