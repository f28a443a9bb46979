"""Identity, camera and time of a crop, read from the names of its file and its folders.

Galleries read names here, and so do data sets of all layouts but MSMT17 and VIPeR, whose readers parse their own. So
all agree on the identity of a crop. An identity is text here, as in a gallery. The readers of data sets make it a
number: in Market-1501, junk is "-1" and distractors are "0000".
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

SPLITS = ("train", "query", "gallery")
# A folder or word for a split, in small letters -> the split. `divide_test_crops` divides the crops of "test" into
# query and gallery. Crops of "val" are for evaluation only where no other split is.
SPLIT_NAMES = {
    **{split: split for split in SPLITS},
    "test": "test",
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    "train_all": "train_all",  # of layumi's tree: train/ and val/ together
    **dict.fromkeys(("multi-query", "multi_query"), "multi-query"),  # of layumi's tree: more pictures of the queries
}
# A folder of Market-1501 -> the split in it.
MARKET_FOLDERS = {"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"}
# Names of folders, in small letters, that are no identities.
RESERVED_FOLDERS = {*SPLITS, *MARKET_FOLDERS, "test", "train_all", "multi-query", "pytorch"}
# Identities in the names of Market-1501 that stand for no person: crops that show a person badly or in part, and people
# without a query. Data sets have them as the numbers `JUNK` and `DISTRACTOR`.
JUNK_LABEL, DISTRACTOR_LABEL = "-1", "0000"
SPECIAL_LABELS = {JUNK_LABEL, DISTRACTOR_LABEL}

# The patterns limit the number of digits, because longer numbers are dates or times.
MARKET_PATTERN = re.compile(r"(-1|\d{1,9})_c(\d{1,5})(?!\d)")
CAMERA_IN_NAME = re.compile(r"(?:^|[_-])c(?:am(?:era)?)?_?(\d{1,5})(?!\d)", re.IGNORECASE)
CAMERA_FOLDER_PATTERN = re.compile(r"c(?:am(?:era)?)?_?\d{1,5}|cam(?:era)?_[a-z]", re.IGNORECASE)
SESSION_FOLDER_PATTERN = re.compile(
    r"(?:session|sess|seq|sequence|take|visit|day|clip|video|recording|scene)[-_ ]?\d{1,6}", re.IGNORECASE
)
MARKET_FRAME_PATTERN = re.compile(r"-?\d+_c\d+s\d+_(\d+)")  # Market-1501 goes on with sequence and frame
DUKE_FRAME_PATTERN = re.compile(r"\d+_c\d+_f\d+")  # DukeMTMC-reID goes on with the frame
TIME_PATTERN = re.compile(
    r"(?<!\d)((?:19|20)\d\d)-?([01]\d)-?([0-3]\d)[T_ -]?([0-2]\d)[-:h]?([0-5]\d)[-:m]?([0-5]\d)(?!\d)"
)
DAY_PATTERN = re.compile(r"(?:19|20)\d\d-?[01]\d-?[0-3]\d")


class CropMetadata(NamedTuple):
    """Identity, camera and time of a crop; None where unknown."""

    identity: str | None = None  # a name; in `datasets.Crop` it is `identity_name`
    camera: int | None = None
    time: float | None = None  # seconds since 1970, UTC; the frame number where a name holds only that


class MarketLabel(NamedTuple):
    """The beginning of a Market-1501 file name."""

    identity: str
    camera: int


class ParsedNames(NamedTuple):
    """The result of `parse_names` for a set of paths."""

    infos: list[CropMetadata]  # one for each path
    session_note: str  # that a level of folders was read as sessions instead of identities, and why; "" if none was
    contradiction_reason: str  # why not all folders can be right, such as crops beside folders of crops; "" if they can
    contradictory: list[bool]  # for each path, whether its folders are among those that contradict each other


def parse_name(path: str) -> CropMetadata:
    """Identity, camera and time in `path`, whose parts are joined by "/".

    `0002_c1s1_000451_03.jpg` has the form of Market-1501: identity, camera, sequence, frame. In other forms the
    innermost folder names the identity. Folders of cameras, days, sessions and splits are passed over. If no folder is
    left, a file name such as `0002_c1.jpg` names the identity. `c1` or `cam1` in a file name, or as the name of a
    folder, is the camera. 2026-01-31_12-00-00, with or without separators, is the time.

    `parse_names` compares the paths of a set, and so finds sessions and contradictions.
    """
    *folders, name = path.split("/")
    return _parse(folders, name, _identity_folders(folders))


def parse_names(paths: Sequence[str]) -> ParsedNames:
    """Identity, camera and time in each of `paths`, as `parse_name` reads them, with one more rule.

    A folder name that recurs below several parents is no identity: in alice/lobby/1.jpg and bob/lobby/2.jpg, the people
    are alice and bob. A file name that begins with the name of its folder shows that the folder is the identity.
    """
    parts = [path.split("/") for path in paths]
    # Where file names have the identity, folders say nothing.
    folders = [[] if _is_benchmark_name(names[-1]) else _identity_folders(names[:-1]) for names in parts]
    sessions = _drop_sessions(parts, folders)
    nested = _find_nested_identities(paths, sessions.identity_folders)
    contradictory = [
        bool(candidates) and (candidates[-1] in sessions.ambiguous or tuple(candidates) in nested.folders)
        for candidates in sessions.identity_folders
    ]
    infos = [
        # Such a folder may be a session or a person; its crops have no identity rather than a wrong one.
        _parse(names[:-1], names[-1], [] if is_contradictory else candidates)
        for names, candidates, is_contradictory in zip(parts, sessions.identity_folders, contradictory, strict=True)
    ]
    return ParsedNames(infos, sessions.note, sessions.reason or nested.reason, contradictory)


class _Sessions(NamedTuple):
    """Folders of sessions below folders of identities."""

    identity_folders: list[list[str]]  # of each path, without those of sessions
    note: str  # which folders are sessions, and why; "" for none
    reason: str  # why a folder is either a session or an identity; "" for none
    ambiguous: set[str]  # names of such folders


def _drop_sessions(parts: Sequence[list[str]], identity_folders: list[list[str]]) -> _Sessions:
    """Drops the innermost level of folders as long as most of its names recur below several parents."""
    note = ""
    while True:
        parents = _parents_of_innermost_folders(parts, identity_folders)
        recurring = [folder for folder, above in parents.items() if len(above) > 1]
        description = _describe_recurring_folder(recurring[0], parents) if recurring else ""
        if 2 * len(recurring) < len(parents) or not recurring:
            reason = f"{description}, but most folders are below one" if recurring else ""
            return _Sessions(identity_folders, note, reason, set(recurring))
        note = note or f"{description}, so it is read as a session, and the folder above is the identity"
        identity_folders = [
            candidates[:-1]
            if len(candidates) > 1 and not _file_repeats_folder(candidates[-1], names[-1])
            else candidates
            for names, candidates in zip(parts, identity_folders, strict=True)
        ]


def _parents_of_innermost_folders(
    parts: Sequence[list[str]], identity_folders: Sequence[list[str]]
) -> dict[str, set[tuple[str, ...]]]:
    """The folders above each innermost folder of `identity_folders`."""
    parents: dict[str, set[tuple[str, ...]]] = {}
    for names, candidates in zip(parts, identity_folders, strict=True):
        if len(candidates) > 1 and not _file_repeats_folder(candidates[-1], names[-1]):
            parents.setdefault(candidates[-1], set()).add(tuple(candidates[:-1]))
    return parents


def _describe_recurring_folder(folder: str, parents: dict[str, set[tuple[str, ...]]]) -> str:
    first, second, *_ = sorted("/".join(above) for above in parents[folder])
    return f"{folder}/ is below {first}/ and below {second}/"


class _NestedIdentities(NamedTuple):
    """Crops that lie beside folders of crops, so that not each folder is an identity."""

    reason: str
    folders: set[tuple[str, ...]]  # that hold both, and those below them


def _find_nested_identities(paths: Sequence[str], identity_folders: Sequence[list[str]]) -> _NestedIdentities:
    """The crops that lie beside folders of crops; an empty reason and no folders for none."""
    first_in: dict[tuple[str, ...], str] = {}
    for path, candidates in zip(paths, identity_folders, strict=True):
        if candidates:
            first_in.setdefault(tuple(candidates), path)
    reason = ""
    nested: set[tuple[str, ...]] = set()
    for folders, path in first_in.items():
        above = [folders[:depth] for depth in range(1, len(folders)) if folders[:depth] in first_in]
        nested.update(*[above], [folders] if above else [])
        if above and not reason:
            reason = f"{first_in[above[0]]} lies beside the folder of {path}, so one of the folders is no identity"
    return _NestedIdentities(reason, nested)


def _file_repeats_folder(folder: str, name: str) -> bool:
    """Whether a file name begins with the name of its folder, as 0002/0002_c1.jpg does."""
    return name.startswith(folder) and not name[len(folder) : len(folder) + 1].isdigit()


def _parse(folders: Sequence[str], name: str, candidates: Sequence[str]) -> CropMetadata:
    """The names of `folders` and of the file; `candidates` are the folders that may be identities."""
    market, frame, date = parse_market_name(name), MARKET_FRAME_PATTERN.match(name), TIME_PATTERN.search(name)
    time = _timestamp(date) if date else None
    if frame and time is None:
        time = float(frame[1])
    camera = parse_camera(name)
    if camera is None:
        camera = next((_folder_camera(folder) for folder in reversed(folders[-3:]) if is_camera_folder(folder)), None)
    identity = _as_text(candidates[-1]) if candidates else None
    if market and not DAY_PATTERN.fullmatch(market.identity) and (_is_benchmark_name(name) or identity is None):
        return CropMetadata(market.identity, market.camera, time)
    return CropMetadata(identity, camera, time)


def _is_benchmark_name(name: str) -> bool:
    """Whether a file name has identity, camera and frame, as in Market-1501 or DukeMTMC-reID."""
    market = parse_market_name(name)
    return (
        market is not None
        and not DAY_PATTERN.fullmatch(market.identity)
        and bool(MARKET_FRAME_PATTERN.match(name) or DUKE_FRAME_PATTERN.match(name))
    )


def parse_market_name(name: str) -> MarketLabel | None:
    """Identity and camera of a file name such as 0001_c1s1_001051_00.jpg; None for other names."""
    match = MARKET_PATTERN.match(name)
    return MarketLabel(match[1], int(match[2])) if match else None


def parse_camera(name: str) -> int | None:
    """The camera in a name such as x_c3.jpg or cam3; None for other names."""
    match = CAMERA_IN_NAME.search(name)
    return int(match[1]) if match else None


def is_camera_folder(name: str) -> bool:
    """Whether a folder is named after a camera, such as c1, cam_2, camera3 or cam_a."""
    return CAMERA_FOLDER_PATTERN.fullmatch(name) is not None


def parse_time(text: str) -> float:
    """A time in the unit of `CropMetadata.time`: a number as it is, or ISO 8601, in UTC where it has no zone.

    Raises:
        ValueError: neither of them.
    """
    try:
        number = float(text)
    except ValueError:
        time = datetime.fromisoformat(text)
        # The zone of this machine is not used: names, tables and filters must mean the same everywhere.
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(number):  # JSON has no such numbers
        raise ValueError(text)
    return number


def _identity_folders(folders: Sequence[str]) -> list[str]:
    """Those of `folders` that may name an identity: no cameras, days, sessions or splits of a data set."""
    return [
        folder
        for folder in folders
        if folder
        and not (
            is_camera_folder(folder)
            or DAY_PATTERN.match(folder)
            or SESSION_FOLDER_PATTERN.fullmatch(folder)
            or folder.lower() in RESERVED_FOLDERS
        )
    ]


def _folder_camera(folder: str) -> int:
    camera = parse_camera(folder)
    return ord(folder[-1].lower()) - ord("a") + 1 if camera is None else camera  # cam_a is camera 1


def _as_text(folder: str) -> str:
    return folder.encode(errors="surrogateescape").decode(errors="replace")  # the bytes of a name need not be text


def _timestamp(date: re.Match[str]) -> float | None:
    try:
        return datetime(*map(int, date.groups()), tzinfo=UTC).timestamp()  # type: ignore[misc,arg-type]
    except ValueError:
        return None
