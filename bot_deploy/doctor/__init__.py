"""Why matches are bad: what each usual mistake would do to the embeddings of a user's crops, and signs of one."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bot_deploy import images
from bot_deploy.errors import ImageError, InputError
from bot_deploy.progress import show_progress

from .corruptions import BGR, CORRUPTIONS, Corruption, preprocess_correctly
from .crop_checks import EXAMPLES, Finding, crop_warnings, measure_crop, share_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.embedder import Embedder, Vectors
    from bot_deploy.images import Pixels

    from .crop_checks import CropStatistics

COUNT = 200
SINGLES = 8  # crops that are embedded once more, alone

COLLAPSED = 0.99  # cosine of most pairs
COLLAPSED_CROPS = 8  # fewer may all be of one person
NORM_ERROR = 1e-3
BATCH_COSINE = 0.999
FAMILIAR, FAMILIAR_CROPS = 1.15, 64  # see _colour_warnings
UNFIT = {"nan", "collapse", "levels", "exposure", "flat", "clipped"}


@dataclass(frozen=True)
class Effect:
    """What a mistake does. The cosines are with the right way's vectors; the rest is among crops all fed wrongly."""

    name: str
    changed: float  # share of crops that it changes at all: a crop of the model's size is not resized
    mean_cosine: float
    min_cosine: float
    nearest_changed: float  # share of crops whose nearest other crop is another one than before
    mean_similarity: float  # mean cosine between different crops
    sign: str


@dataclass(frozen=True)
class Diagnosis:
    """The effects of corruptions and the warnings, measured on `crops` crops."""

    crops: int
    mean_similarity: float
    effects: tuple[Effect, ...]  # worst first
    warnings: tuple[Finding, ...]
    broken: tuple[ImageError, ...]  # files that were left out

    @property
    def verdict(self) -> str:
        if not self.warnings:
            return f"nothing looks violated on {self.crops} crops"
        kinds = ", ".join(warning.kind for warning in self.warnings)
        return f"{len(self.warnings)} warning{'s' if len(self.warnings) > 1 else ''} on {self.crops} crops: {kinds}"

    def to_dict(self) -> dict[str, object]:
        """For JSON: a figure that is not a number is None."""
        return {
            "crops": self.crops,
            "mean_similarity": _figure(self.mean_similarity),
            "effects": [{key: _figure(value) for key, value in asdict(effect).items()} for effect in self.effects],
            "warnings": [asdict(warning) for warning in self.warnings],
            "broken_files": [str(error) for error in self.broken],
            "verdict": self.verdict,
        }

    def table(self) -> str:
        """Effects, warnings and verdict as lines."""
        lines = [
            f"{'if crops were fed ...':<42} mean cos  min cos  nearest changed  between crops",
            f"  {'as the contract says':<40} {'1':>8} {'1':>8} {'0 %':>16} {self.mean_similarity:>14.3f}",
        ]
        for effect in self.effects:
            figures = (
                f"{effect.mean_cosine:>8.3f} {effect.min_cosine:>8.3f} {100 * effect.nearest_changed:>14.0f} % "
                f"{effect.mean_similarity:>14.3f}"
                if effect.changed
                else "  no difference: these crops have the model's size or shape"
            )
            lines += [f"  {effect.name:<40} {figures}", *([f"      {effect.sign}"] if effect.changed else [])]
        for warning in self.warnings:
            named = f" ({', '.join(warning.examples)})" if warning.examples else ""
            lines.append(f"warning: {warning.kind}: {warning.message}{named}")
        return "\n".join([*lines, self.verdict])


def diagnose(embedder: Embedder, folder: Path, count: int = COUNT) -> Diagnosis:
    """Examines at most `count` crops, spread evenly over those under `folder`.

    Raises:
        InputError: no such folder, or fewer than two usable images in it.
    """
    paths: list[Path] = []
    broken: list[ImageError] = []
    statistics: list[CropStatistics] = []
    unchanged: dict[str, int] = defaultdict(int)
    inputs: dict[str, list[Pixels]] = defaultdict(list)
    embedded: dict[str, list[Vectors]] = defaultdict(list)
    alone: list[Vectors] = []

    def flush() -> None:
        if inputs and not alone and len(inputs[RIGHT]) > 1:
            alone.extend(embedder.run(pixels[None])[0] for pixels in inputs[RIGHT][:SINGLES])
        for way, batch in inputs.items():
            embedded[way].append(embedder.run(np.stack(batch)))
        inputs.clear()

    for path, source in _opened(folder, count, broken):
        paths.append(path)
        statistics.append(measure_crop(source))
        for way, pixels in _ways(source, embedder.contract):
            inputs[way].append(pixels)
            unchanged[way] += np.array_equal(pixels, inputs[RIGHT][-1])
        if len(inputs[RIGHT]) == embedder.batch:
            flush()
    flush()
    if len(paths) < 2:  # noqa: PLR2004 - one crop is near to nothing
        raise InputError(
            f"{folder}: {len(paths)} usable images; give at least two crops ({', '.join(images.SUFFIXES)})"
        )
    vectors = {way: np.concatenate(batches).astype(np.float64) for way, batches in embedded.items()}
    with np.errstate(all="ignore"):  # a broken model's NaN goes into the figures, and a warning names it
        effects = [_effect(what, vectors, 1 - unchanged[what.name] / len(paths)) for what in CORRUPTIONS]
        warnings = [
            *_model_warnings(vectors[RIGHT], np.asarray(alone, np.float64), paths),
            *crop_warnings(statistics, paths, embedder.contract),
        ]
        # Crops whose values are broken say nothing about their colours.
        if not UNFIT & {warning.kind for warning in warnings}:
            warnings += _colour_warnings(vectors)
        similarity = float(_between(vectors[RIGHT]).mean())
    return Diagnosis(
        crops=len(paths),
        mean_similarity=similarity,
        effects=tuple(sorted(effects, key=lambda effect: np.nan_to_num(effect.mean_cosine, nan=-2))),
        warnings=tuple(warnings),
        broken=tuple(broken),
    )


def _opened(folder: Path, count: int, broken: list[ImageError]) -> Iterator[tuple[Path, Pixels]]:
    """The chosen crops, one at a time, because a folder of whole frames must not fill the memory."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one of crops, as your application cuts them")
    found = images.find_images(folder)
    chosen = np.unique(np.linspace(0, max(len(found) - 1, 0), min(count, len(found))).astype(int))
    for row in show_progress(chosen.tolist(), "examining", len(chosen)):
        try:
            yield found[row], images.read_image(found[row])
        except ImageError as error:
            broken.append(error)


# ---- what-ifs ----

RIGHT, MIRRORED, MIRRORED_BGR = "right", "right, mirrored", "BGR, mirrored"


def _ways(source: Pixels, contract: Contract) -> Iterator[tuple[str, Pixels]]:
    right = preprocess_correctly(source, contract)
    yield RIGHT, right
    yield MIRRORED, right[:, ::-1]
    yield MIRRORED_BGR, right[:, ::-1, ::-1]
    for what in CORRUPTIONS:
        yield what.name, what.pixels(source, contract)


def _effect(what: Corruption, vectors: dict[str, npt.NDArray[np.float64]], changed: float) -> Effect:
    right, wrong = vectors[RIGHT], vectors[what.name]
    cosines = (_unit(right) * _unit(wrong)).sum(1)
    return Effect(
        name=what.name,
        changed=changed,
        mean_cosine=float(cosines.mean()),
        min_cosine=float(cosines.min()),
        nearest_changed=float((_nearest(right) != _nearest(wrong)).mean()),
        mean_similarity=float(_between(wrong).mean()),
        sign=what.sign,
    )


def _nearest(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    return np.asarray(similarity.argmax(1))


def _between(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The cosines of all pairs of different crops."""
    unit = _unit(vectors)
    pairs: npt.NDArray[np.float64] = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
    return pairs


def _unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    length: npt.NDArray[np.float64] = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(length, 1e-12)


def _figure(value: object) -> object:
    return None if isinstance(value, float) and not np.isfinite(value) else value


# ---- signs in the embeddings ----


def _model_warnings(
    right: npt.NDArray[np.float64], alone: npt.NDArray[np.float64], paths: Sequence[Path]
) -> Iterator[Finding]:
    def warning(kind: str, rows: npt.NDArray[np.bool_], message: str) -> Finding:
        names = [str(paths[row]) for row in np.flatnonzero(rows)[:EXAMPLES]]
        return Finding(kind, int(rows.sum()), message, tuple(names) if rows.sum() < len(paths) else ())

    lost = np.asarray(~np.isfinite(right).all(1))
    if lost.any():
        yield warning(
            "nan",
            lost,
            f"{share_of(lost)} give vectors that are not numbers; FP16 overflows: use the FP32 export, or export again",
        )
        return
    norms = np.linalg.norm(right, axis=1)
    odd = np.abs(norms - 1) > NORM_ERROR
    if odd.any():
        yield warning(
            "norm",
            odd,
            f"{share_of(odd)} give vectors of length {norms.min():.3g} to {norms.max():.3g}, not 1: scores are no "
            "cosines; export the model again",
        )
    if not norms.all():
        return  # no direction to compare
    if len(alone):
        beside = right[: len(alone)]
        cosines = (_unit(alone) * _unit(beside)).sum(1)
        differ = ~(cosines >= BATCH_COSINE)
        if differ.any():
            yield warning(
                "batch",
                np.append(differ, np.zeros(len(right) - len(alone), bool)),
                f"{share_of(differ)} embed otherwise alone than among others (cosine {cosines.min():.4f}): the graph "
                "mixes a batch; use --batch 1, or export again",
            )
    pairs = _between(right)
    if len(right) >= COLLAPSED_CROPS and (pairs >= COLLAPSED).mean() > 0.5:  # noqa: PLR2004 - most
        yield Finding(
            "collapse",
            len(right),
            f"{100 * (pairs >= COLLAPSED).mean():.0f} % of all pairs have a cosine of {COLLAPSED} or more: the "
            "model is not trained, or the crops are all alike, black or already normalised",
            (),
        )


def _colour_warnings(vectors: dict[str, npt.NDArray[np.float64]]) -> Iterator[Finding]:
    """Whether crops are more familiar to the model with red and blue exchanged.

    Familiar are crops that it tells apart: a crop is closer to its own mirror image than to other crops, by how many
    standard deviations? On clean crops the exchange lowers that figure (times 0.78 to 0.98 with two trained models on
    Market-1501, VIPeR and synthetic crops); without training it does nothing (0.98 to 1.04), and on fewer than 64
    crops chance does more.
    """
    if len(vectors[RIGHT]) < FAMILIAR_CROPS:
        return
    ratio = _apart(vectors[BGR], vectors[MIRRORED_BGR]) / _apart(vectors[RIGHT], vectors[MIRRORED])
    if ratio >= FAMILIAR:
        yield Finding(
            "swapped",
            len(vectors[RIGHT]),
            f"the model tells the crops apart {ratio:.2f} times as well with red and blue exchanged: are they stored "
            "as BGR? (look at one: are faces blue?)",
            (),
        )


def _apart(vectors: npt.NDArray[np.float64], mirrored: npt.NDArray[np.float64]) -> float:
    others = _between(vectors)
    return float(((vectors * mirrored).sum(1).mean() - others.mean()) / max(others.std(), 1e-12))
