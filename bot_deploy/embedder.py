"""`open_embedder(path)`: images to unit vectors, whatever the backend."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bot_deploy import images
from bot_deploy.choices import AUTO_DEVICES, BACKENDS
from bot_deploy.errors import ImageError, InputError, RunError
from bot_deploy.machine import available_cores
from bot_deploy.progress import show_progress

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Callable, Iterable, Sequence

    from bot_deploy.artifacts.contract import Contract

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Embedder:
    """A model ready to run, with the contract it was exported under."""

    contract: Contract
    backend: str  # what runs it, in words
    run: Callable[[images.Pixels], Vectors]  # uint8 [N, height, width, 3] -> [N, dim]
    batch: int = 32  # images that `embed` runs at once; more fall out of a CPU's cache

    def embed(self, pictures: Sequence[images.Pixels | str | Path]) -> Vectors:
        """Unit vectors float32 [N, dim] of `pictures`: uint8 RGB [H, W, 3] arrays of any size, or files.

        Raises:
            ImageError: a file that is not an image, an array that is not uint8 RGB.
        """
        ready = [self._sized(picture, number) for number, picture in enumerate(pictures)]
        batches = [self.run(np.stack(ready[start : start + self.batch])) for start in range(0, len(ready), self.batch)]
        return np.concatenate(batches) if batches else np.empty((0, self.contract.dim), np.float32)

    def embed_files(
        self, paths: Sequence[Path | zipfile.Path], label: str | None = "embedding"
    ) -> tuple[Vectors, list[ImageError | None]]:
        """Vectors [N, dim] of all `paths`, and for each path None or why it is no image (its row is zero)."""
        vectors = np.zeros((len(paths), self.contract.dim), np.float32)
        errors: list[ImageError | None] = [None] * len(paths)
        rows: list[int] = []
        batch: list[images.Pixels] = []

        def flush() -> None:
            if batch:
                vectors[rows] = self.run(np.stack(batch))
            rows.clear()
            batch.clear()

        loaded: Iterable[images.Pixels | ImageError] = images.read_many(
            paths, self.contract.size, max(4, available_cores())
        )
        for row, picture in enumerate(show_progress(loaded, label, len(paths))):
            if isinstance(picture, ImageError):
                errors[row] = picture
                continue
            rows.append(row)
            batch.append(picture)
            if len(batch) == self.batch:
                flush()
        flush()
        return vectors, errors

    def _sized(self, picture: images.Pixels | str | Path, number: int) -> images.Pixels:
        if isinstance(picture, str | Path):
            return images.read_resized(picture, self.contract.size)
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:  # noqa: PLR2004
            raise ImageError(
                f"image {number}: {picture.dtype} {picture.shape}; give uint8 RGB [H, W, 3], not normalised "
                "(the model normalises by itself)"
            )
        return images.resize(picture, self.contract.size)


def open_embedder(path: str | Path, device: str = "auto", *, threads: int = 0, batch: int = 0) -> Embedder:
    """The model in `path`: an .onnx, an .engine, or a .pt checkpoint of ours.

    Args:
        path: the model.
        device: one of `choices.DEVICES`; "auto" takes the first of `choices.AUTO_DEVICES` that works.
        threads: of the CPU; 0 for as many as this process may use.
        batch: images that `embed` runs at once; 0 for the backend's own choice.

    Raises:
        InputError: no such file, not a model of ours, or damaged; no such device.
        RunError: the runtime it needs is not installed; the message names what to install.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: a folder; name the model in it, such as {path / 'model.onnx'}")
    if not path.is_file():
        raise InputError(f"{path}: no such model file; `bot export` writes one")
    backends = BACKENDS.get(path.suffix)
    if backends is None:
        raise InputError(f"{path}: models end in {' or '.join(BACKENDS)}")
    if device != "auto" and device not in backends:
        raise InputError(f"{path}: cannot run on {device!r}; choose auto, {', '.join(backends)}")
    wanted = [name for name in AUTO_DEVICES if name in backends] if device == "auto" else [device]
    failures: list[RunError] = []
    for name in wanted:
        try:
            opened: Embedder = import_module(f"bot_deploy.backends.{backends[name]}").open_model(
                path, name, threads or available_cores()
            )
            return replace(opened, batch=batch or opened.batch)
        except RunError as error:
            failures.append(error)
    raise failures[0]
