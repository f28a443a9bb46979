"""The result of a diagnosis, as lines and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.images import broken_files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bot_deploy.errors import ImageError

    from .crop_checks import DoctorWarning


@dataclass(frozen=True)
class Effect:
    """The effect of a mistake on embeddings.

    The cosines are with the embeddings of the same crops, preprocessed correctly.
    """

    name: str
    changed: float  # share of crops with other pixels; a crop of the model's size is not resized
    mean_cosine: float
    min_cosine: float
    nearest_changed: float  # share of crops with another nearest crop, when all crops are fed with the mistake
    mean_similarity: float  # mean cosine between different crops, when all crops are fed with the mistake
    symptom: str  # how to recognise the mistake

    def to_dict(self) -> dict[str, object]:
        """The figures for JSON; a NaN or infinite figure becomes None."""
        figures = {name: _finite(value) for name, value in asdict(self).items()}
        figures["sign"] = figures.pop("symptom")
        return figures


@dataclass(frozen=True)
class Diagnosis:
    """The effects of mistakes and the warnings, measured on `crops` crops."""

    crops: int  # number of crops
    mean_similarity: float  # mean cosine between different crops, preprocessed correctly
    effects: tuple[Effect, ...]  # the lowest mean cosine first
    warnings: tuple[DoctorWarning, ...]
    broken: Mapping[Path, ImageError]  # files that were left out

    @property
    def summary(self) -> str:
        """The number and the kinds of the warnings as one line."""
        if not self.warnings:
            return f"no warnings on {self.crops} crops"
        kinds = ", ".join(warning.kind for warning in self.warnings)
        return f"{len(self.warnings)} warning{'s' if len(self.warnings) > 1 else ''} on {self.crops} crops: {kinds}"

    def to_dict(self) -> dict[str, object]:
        """The figures for JSON; a NaN or infinite figure becomes None."""
        return {
            "crops": self.crops,
            "mean_similarity": _finite(self.mean_similarity),
            "effects": [effect.to_dict() for effect in self.effects],
            "warnings": [asdict(warning) for warning in self.warnings],
            "broken": len(self.broken),
            "broken_files": broken_files(self.broken),
            "verdict": self.summary,
        }

    def text_lines(self) -> list[str]:
        """Effects, warnings and summary as lines."""
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
            lines += [f"  {effect.name:<40} {figures}", *([f"      {effect.symptom}"] if effect.changed else [])]
        for warning in self.warnings:
            examples = f" ({', '.join(warning.examples)})" if warning.examples else ""
            lines.append(f"warning: {warning.kind}: {warning.message}{examples}")
        return [*lines, self.summary]


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not np.isfinite(value) else value
