"""Fetches the files of named networks into the cache, with pooch: once, checked, and never visible half-written."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from typing import TYPE_CHECKING

from bot_deploy.choices import OFFLINE_VARIABLE
from bot_deploy.errors import BotError, InputError, RunError, on_one_line
from bot_deploy.files import lock, write_atomically
from bot_deploy.progress import progress_counter

from .cache import FOLDER_VARIABLE, models_folder, search_folders
from .terms import log_terms

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .table import NamedNetwork, RemoteFile

logger = logging.getLogger(__name__)

TIMEOUT_S = (10.0, 30.0)  # to connect, and between two parts of a file
ATTEMPTS = 2  # a connection that was cut is tried again
CHUNK_BYTES = 1 << 16
MAX_SIZE_RATIO = 2  # of a file and the size in the table; a longer answer is not the file
REMEDY = "try again, or fetch it by hand into"
PARTIAL = ".partial"  # folder of unfinished files


def fetch(network: NamedNetwork, folder: Path | None = None) -> Path:
    """The first file of `network`, with the others beside it; missing ones are fetched.

    Args:
        network: from the table.
        folder: of named models; by default those of `cache.search_folders`.

    Raises:
        InputError: a file is missing, and $BOT_OFFLINE forbids to fetch it.
        RunError: it cannot be fetched or written; the message names the address and where to put the file by hand.
    """
    first = network.files[0].name
    sources = [(place / network.name) for place in search_folders()]
    target = (folder or models_folder()) / network.name
    for place in [target] if folder else sources:
        if _is_complete(network, place):
            return place / first
    if not any(_is_complete(network, place) for place in sources):
        _require_network(network, target)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with lock(target / ".lock", lambda: logger.info(f"another process fetches {network.name}; waiting for it")):
            try:
                for file in network.files:
                    if not is_intact(file, target / file.name):
                        _obtain(file, target, sources)
            finally:
                shutil.rmtree(target / PARTIAL, ignore_errors=True)
    except BotError:
        raise
    except OSError as error:
        raise _unwritable(target, error, network.files) from None
    log_terms(network)
    return target / first


def find_cached_file(network: NamedNetwork, folders: Sequence[Path] | None = None) -> Path | None:
    """The first file of `network` if all its files are in a folder of models, with their checksums."""
    for place in search_folders() if folders is None else folders:
        if _is_complete(network, place / network.name):
            return place / network.name / network.files[0].name
    return None


def is_offline() -> bool:
    """Whether $BOT_OFFLINE forbids to fetch anything."""
    return os.environ.get(OFFLINE_VARIABLE, "") not in {"", "0"}


def is_intact(file: RemoteFile, path: Path) -> bool:
    """Whether `path` is `file`, by its checksum."""
    algorithm, _, digest = file.checksum.partition(":")
    try:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, algorithm).hexdigest() == digest
    except OSError:
        return False


def _is_complete(network: NamedNetwork, folder: Path) -> bool:
    return all(is_intact(file, folder / file.name) for file in network.files)


def _require_network(network: NamedNetwork, target: Path) -> None:
    """Raises an error if nothing may be fetched, or nothing can fetch it."""
    missing = [file for file in network.files if not is_intact(file, target / file.name)]
    if is_offline():
        damaged = [str(target / file.name) for file in missing if (target / file.name).exists()]
        reason = f"{', '.join(damaged)} has another checksum" if damaged else f"{network.name} is not in the cache"
        raise InputError(f"{reason}, and ${OFFLINE_VARIABLE} forbids to fetch it; {_by_hand(missing, target)}")
    try:
        import pooch  # noqa: F401 - only to see whether it is installed
    except ModuleNotFoundError:
        raise RunError(
            f"pooch is not installed, so {network.name} cannot be fetched; pip install 'bot-deploy[models]', or "
            f"{_by_hand(missing, target)}"
        ) from None


def _by_hand(files: Sequence[RemoteFile], folder: Path) -> str:
    return f"fetch {' and '.join(file.address for file in files)} by hand into {folder}"


def _obtain(file: RemoteFile, folder: Path, sources: list[Path]) -> None:
    """Copies `file` from one of the folders `sources`, or fetches it, into `folder`."""
    path = folder / file.name
    if path.exists():
        logger.info(f"{path}: has another checksum than the file of its authors, so it is fetched again")
    copy = next((place / file.name for place in sources if is_intact(file, place / file.name)), None)
    if copy:
        write_atomically(path, lambda temporary: shutil.copyfile(copy, temporary))
        return
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _download(file, folder)
        except _ConnectionCutError as error:
            if attempt == ATTEMPTS:
                raise RunError(f"{file.address}: cannot be fetched ({error}); {REMEDY} {folder}") from None
            logger.info(f"{file.address}: {error}; trying again")
        else:
            return


class _ConnectionCutError(Exception):
    """The connection ended before the file did."""


def _download(file: RemoteFile, folder: Path) -> None:
    """Fetches `file` into `folder`, where it appears when it is complete and has its checksum.

    Raises:
        _ConnectionCutError: after the server began to answer.
        RunError: the file cannot be fetched or written.
    """
    import pooch
    import requests

    is_answered = False

    def download(address: str, output: str, _pooch: object) -> None:
        """A downloader as pooch calls it; unlike pooch's own, it closes the connection after an error."""
        nonlocal is_answered
        received = 0
        with requests.get(address, stream=True, timeout=TIMEOUT_S) as response, open(output, "wb") as unchecked:  # noqa: PTH123
            response.raise_for_status()
            is_answered = True
            for chunk in response.iter_content(CHUNK_BYTES):
                received += unchecked.write(chunk)
                show(min(received, file.bytes), file.bytes)
                if received > MAX_SIZE_RATIO * file.bytes:
                    raise ValueError("longer than the file")

    pooch_logger = pooch.get_logger()
    level = pooch_logger.level
    pooch_logger.setLevel(logging.ERROR)
    try:
        with progress_counter(f"fetching {file.name}") as show:
            pooch.retrieve(file.address, file.checksum, fname=file.name, path=folder / PARTIAL, downloader=download)
        checked = folder / PARTIAL / file.name
        with checked.open("r+b") as opened:
            os.fsync(opened.fileno())
        checked.replace(folder / file.name)
    except requests.RequestException as error:
        if is_answered:
            raise _ConnectionCutError("the connection was cut") from None
        raise RunError(f"{file.address}: cannot be fetched ({_reason(error)}); {REMEDY} {folder}") from None
    except ValueError:  # pooch's error for a wrong checksum
        raise RunError(
            f"{file.address}: what the server sent has another checksum than the file of its authors, so it was "
            f"deleted; {REMEDY} {folder}"
        ) from None
    except OSError as error:
        if error.errno is None:  # requests raises such an error for a file of certificates that is missing
            raise RunError(f"{file.address}: cannot be fetched ({on_one_line(error)}); {REMEDY} {folder}") from None
        raise _unwritable(folder, error, [file]) from None
    finally:
        pooch_logger.setLevel(level)


def _reason(error: Exception) -> str:
    """Why a request failed, in a few words."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    for kind, reason in (
        (requests.exceptions.ProxyError, "the proxy refuses or does not answer; see HTTPS_PROXY"),
        (requests.exceptions.SSLError, "its certificate is not accepted"),
        (requests.ConnectTimeout, "no connection"),
        (requests.Timeout, f"nothing came for {TIMEOUT_S[1]:g} seconds"),
        (requests.ConnectionError, "no connection"),
    ):
        if isinstance(error, kind):
            return reason
    return on_one_line(error)


def _unwritable(folder: Path, error: OSError, files: Sequence[RemoteFile]) -> RunError:
    return RunError(
        f"{folder}: cannot be written ({error.strerror or on_one_line(error)}); free some space, or choose another "
        f"folder (${FOLDER_VARIABLE}, or --to of `bot models`); {_by_hand(files, folder)}"
    )
