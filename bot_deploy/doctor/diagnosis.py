"""Embeds crops correctly and with each mistake, and compares the embeddings."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy import images
from bot_deploy.errors import ImageError, InputError
from bot_deploy.progress import show_progress
from bot_deploy.sampling import evenly_spread

from .crop_checks import find_crop_warnings, measure_crop
from .embedding_checks import find_model_warnings, find_swapped_colours
from .mistakes import BGR, MISTAKES, Mistake, preprocess_correctly
from .report import Diagnosis, Effect
from .similarity import nearest_crops, pairwise_cosines, rowwise_cosines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.embedder import Embedder, Vectors
    from bot_deploy.images import Pixels

    from .crop_checks import CropStatistics
    from .similarity import Embeddings

MAX_CROPS = 200
CROPS_ALONE = 8  # crops that are also embedded in a batch of one
# With one of these warnings, the embeddings show nothing about the colours of the crops.
UNFIT_FOR_COLOUR_CHECK = {"nan", "collapse", "levels", "exposure", "flat", "clipped"}
# Names of inputs besides those of MISTAKES.
CORRECT, MIRRORED, BGR_MIRRORED = "correct", "correct, mirrored", "BGR, mirrored"


def diagnose(embedder: Embedder, folder: Path, count: int = MAX_CROPS) -> Diagnosis:
    """Examines at most `count` crops, evenly spread over the images under `folder`.

    Raises:
        InputError: no such folder, or fewer than two usable images in it.
    """
    paths: list[Path] = []
    broken: dict[Path, ImageError] = {}
    statistics: list[CropStatistics] = []
    batches = _InputBatches(embedder)
    for path, source in _read_crops(folder, count):
        if isinstance(source, ImageError):
            broken[path] = source
            continue
        paths.append(path)
        statistics.append(measure_crop(source))
        batches.add(source)
    batches.flush()
    if len(paths) < 2:  # noqa: PLR2004 - one crop has no nearest crop
        raise InputError(
            f"{folder}: {len(paths)} usable images; give at least two crops ({', '.join(images.SUFFIXES)})"
        )
    embeddings = batches.embeddings()
    correct = embeddings[CORRECT]
    with np.errstate(all="ignore"):  # the NaN of a broken model reaches the figures, and a warning reports it
        effects = [
            _measure_effect(
                mistake, correct, embeddings[mistake.name], 1 - batches.unchanged[mistake.name] / len(paths)
            )
            for mistake in MISTAKES
        ]
        warnings = [
            *find_model_warnings(correct, np.asarray(batches.single_embeddings, np.float64), paths),
            *find_crop_warnings(statistics, paths, embedder.contract),
        ]
        if not UNFIT_FOR_COLOUR_CHECK & {warning.kind for warning in warnings}:
            warnings += find_swapped_colours(correct, embeddings[MIRRORED], embeddings[BGR], embeddings[BGR_MIRRORED])
        mean_similarity = float(pairwise_cosines(correct).mean())
    return Diagnosis(
        crops=len(paths),
        mean_similarity=mean_similarity,
        effects=tuple(sorted(effects, key=lambda effect: np.nan_to_num(effect.mean_cosine, nan=-2))),
        warnings=tuple(warnings),
        broken=broken,
    )


class _InputBatches:
    """Makes all inputs of each crop and embeds them in batches.

    The embeddings are not checked, because the warnings are about unusable ones.
    """

    def __init__(self, embedder: Embedder) -> None:
        self.unchanged: dict[str, int] = defaultdict(int)  # name of an input -> crops for which it is the correct one
        self.single_embeddings: list[Vectors] = []  # of the first crops, each in a batch of one
        self._embedder = embedder
        self._batch: dict[str, list[Pixels]] = defaultdict(list)  # name of an input -> pixels
        self._embedded: dict[str, list[Vectors]] = defaultdict(list)

    def add(self, source: Pixels) -> None:
        """Adds all inputs of a crop, uint8 RGB [H, W, 3]."""
        correct = preprocess_correctly(source, self._embedder.contract)
        for name, pixels in _make_inputs(source, correct, self._embedder.contract):
            self._batch[name].append(pixels)
            self.unchanged[name] += np.array_equal(pixels, correct)
        if len(self._batch[CORRECT]) == self._embedder.batch_size:
            self.flush()

    def flush(self) -> None:
        """Embeds the inputs that no full batch holds."""
        crops = self._batch.get(CORRECT, [])
        if len(crops) > 1 and not self.single_embeddings:
            self.single_embeddings += [self._embedder.compute(pixels[None])[0] for pixels in crops[:CROPS_ALONE]]
        for name, inputs in self._batch.items():
            self._embedded[name].append(self._embedder.compute(np.stack(inputs)))
        self._batch.clear()

    def embeddings(self) -> dict[str, Embeddings]:
        """The embeddings [N, D] of each input, by its name."""
        return {name: np.concatenate(batches).astype(np.float64) for name, batches in self._embedded.items()}


def _read_crops(folder: Path, count: int) -> Iterator[tuple[Path, Pixels | ImageError]]:
    """Reads the chosen crops one at a time, because a folder of whole frames must not fill the memory."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a folder of crops, cut as your application cuts them")
    files = images.find_images(folder)
    chosen = evenly_spread(len(files), count)
    for row in show_progress(chosen.tolist(), "examining", len(chosen)):
        try:
            source: Pixels | ImageError = images.read_image(files[row])
        except ImageError as error:
            source = error
        yield files[row], source


def _make_inputs(source: Pixels, correct: Pixels, contract: Contract) -> Iterator[tuple[str, Pixels]]:
    """Names and pixels of all inputs that are made from one crop, whose correct input is `correct`."""
    yield CORRECT, correct
    yield MIRRORED, correct[:, ::-1]
    yield BGR_MIRRORED, correct[:, ::-1, ::-1]
    for mistake in MISTAKES:
        yield mistake.name, mistake.apply(source, contract)


def _measure_effect(mistake: Mistake, correct: Embeddings, mistaken: Embeddings, changed: float) -> Effect:
    cosines = rowwise_cosines(correct, mistaken)
    return Effect(
        name=mistake.name,
        changed=changed,
        mean_cosine=float(cosines.mean()),
        min_cosine=float(cosines.min()),
        nearest_changed=float((nearest_crops(correct) != nearest_crops(mistaken)).mean()),
        mean_similarity=float(pairwise_cosines(mistaken).mean()),
        symptom=mistake.symptom,
    )
