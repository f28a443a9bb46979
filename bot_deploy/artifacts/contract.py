"""What a model expects and returns: the one description that travels with the weights.

It is written into the checkpoint, into ONNX `metadata_props` and into an engine's sidecar, and
every user of a model reads it from there, so that nobody can preprocess an image wrongly.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bot_deploy.choices import FEATURES, PRECISIONS
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

METADATA_KEY = "bot_deploy.contract"
FORMAT = 1
MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in [0, 1] (paper section 2, step 5)
STD = (0.229, 0.224, 0.225)
# What this runtime can fulfil; another promise in an artifact is refused, not guessed at.
UNDERSTOOD = {
    "color": ("RGB",),
    "resize": ("bilinear-antialias",),
    "feature": FEATURES,
    "flip": (False, True),
    "precision": PRECISIONS,
}
OLD_CALIBRATION_NAMES = {"reject": "reject_threshold", "missed": "false_reject_rate"}
OPTIONAL = {"flip", "precision", "calibration"}  # older artifacts do not say
INPUT_NAME = "images"  # uint8 [N, height, width, 3]
OUTPUT_NAME = "embeddings"  # float32 [N, dim], L2-normalised


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Which cosine means "the same person", as measured by `bot calibrate`; see bot_deploy/matching/calibrate.py."""

    data: str  # what it was measured on
    genuine: int  # pairs of one identity before different cameras
    impostor: int  # pairs of different identities
    target: float  # false-accept rate asked for
    threshold: float  # the least cosine that keeps it
    reject_threshold: float  # cosine below which the answer is "no match"
    false_reject_rate: float  # share of genuine pairs below the threshold
    curve: tuple[tuple[float, float], ...]  # (cosine, false-accept rate), ascending in cosine


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Images uint8 [N, height, width, 3] in `color` order in, unit vectors float32 [N, dim] out."""

    arch: str  # backbone, e.g. "resnet50"
    height: int  # pixels
    width: int  # pixels
    dim: int  # length of an embedding
    fingerprint: str  # of the weights: equal fingerprints embed into the same space
    color: str = "RGB"
    resize: str = "bilinear-antialias"  # the kernel of images.resize
    mean: tuple[float, float, float] = MEAN  # subtracted inside the graph, on [0, 1]
    std: tuple[float, float, float] = STD
    feature: str = "fi"  # "fi" after the neck (BNNeck, paper section 3.5), "ft" before it
    flip: bool = False  # the mean of the embeddings of the image and its mirror image
    precision: str = "fp32"  # of the backbone: "fp32", "fp16" or "int8"
    calibration: Calibration | None = None
    format: int = FORMAT

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    @property
    def embedding_space(self) -> str:
        """What vectors must share to be compared; precision and flip may differ."""
        return f"{self.fingerprint}-{self.feature}"

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def from_json(text: str, source: str) -> Contract:
    """The contract in `text`; `source` names the artifact in the error."""
    try:
        fields: dict[str, Any] = json.loads(text)
        version = fields.get("format")
    except (ValueError, AttributeError):
        raise InputError(f"{source}: its contract is not readable; export the model again") from None
    if version != FORMAT:
        raise InputError(
            f"{source}: contract format {version}, but this bot_deploy reads format {FORMAT}; "
            "export it again, or install the bot_deploy that wrote it"
        )
    try:
        for name in ("mean", "std"):
            fields[name] = tuple(float(value) for value in fields[name])
        missing = {field.name for field in dataclasses.fields(Contract)} - OPTIONAL - set(fields)
        if missing or not all(type(fields[name]) is int and fields[name] > 0 for name in ("height", "width", "dim")):
            raise ValueError(f"missing or wrong: {', '.join(sorted(missing)) or 'height, width or dim'}")  # noqa: TRY301
        if fields.get("calibration"):
            fields["calibration"] = _calibration(fields["calibration"])
        contract = Contract(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{source}: its contract is damaged ({error}); export the model again") from None
    for name, known in UNDERSTOOD.items():
        if getattr(contract, name) not in known:
            raise InputError(
                f"{source}: wants {name} {getattr(contract, name)!r}, which this bot_deploy does not do; "
                "install the one that exported it"
            )
    return contract


def _calibration(fields: dict[str, Any]) -> Calibration:
    fields = {OLD_CALIBRATION_NAMES.get(name, name): value for name, value in fields.items()}
    curve = tuple((float(cosine), float(rate)) for cosine, rate in fields["curve"])
    if not curve or not all(0 < rate <= 1 for _, rate in curve):
        raise ValueError("calibration")
    return Calibration(**{**fields, "curve": curve})


def weights_fingerprint(tensors: Iterable[tuple[str, bytes]]) -> str:
    """16 hex digits over (name, bytes) of every weight that inference uses, in any order."""
    digest = hashlib.sha256()
    for name, data in sorted(tensors):
        digest.update(name.encode())
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()[:16]
