"""What the service answers, as types: they describe the JSON in /openapi.json."""

from __future__ import annotations

from typing import (
    Literal,
    NotRequired,  # pydantic reads those of `typing` from Python 3.12 on
)

from typing_extensions import TypedDict


class Embedded(TypedDict):
    """The embedding of a picture."""

    embedding: list[float]  # of length 1
    dim: int
    embedding_space: str


# One image of the gallery; the last three are there in a video alone. In another form, because `from` is a keyword.
FoundImage = TypedDict(
    "FoundImage",
    {
        "rank": int,
        "score": float,
        "identity": str | None,
        "path": str,
        "camera": int | None,
        "time": float | None,
        "camera_name": NotRequired[str],
        "from": NotRequired[float],
        "to": NotRequired[float],
    },
)


class FoundPerson(TypedDict):
    """A person of the gallery, and how much they look like the picture."""

    name: str
    score: float


class Decision(TypedDict):
    """Whether the best match is the same person; rates are None where they are unknown."""

    decision: Literal["match", "uncertain", "no match", "uncalibrated"]
    explanation: str
    false_accept_rate: float | None
    gallery_false_accept_rate: float | None
    other_cameras: list[int]


class Found(TypedDict):
    """The answer to a search."""

    matches: list[FoundImage]
    people: list[FoundPerson]
    verdict: Decision


class KnownPerson(TypedDict):
    """A person of the gallery."""

    name: str
    images: int


class People(TypedDict):
    """Everybody in the gallery."""

    people: list[KnownPerson]


class Enrolled(TypedDict):
    """Who the picture was added to."""

    name: str


class ForgottenPerson(TypedDict):
    """What was removed, and how many images stay."""

    name: str
    images: int
    appearances: int
    left_file_count: int


class Health(TypedDict):
    """The service and its model."""

    status: Literal["ok"]
    version: str
    model: str
    embedding_space: str
    backend: str
    calibrated: bool
