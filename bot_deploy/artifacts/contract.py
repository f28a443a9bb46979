"""The contract of a model: which images it takes and which embeddings it returns.

Checkpoints, ONNX `metadata_props` and engine sidecars hold it. All code reads the preprocessing from there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bot_deploy.choices import FEATURES, PRECISIONS
from bot_deploy.errors import InputError

from .json_fields import parse_fields

if TYPE_CHECKING:
    from collections.abc import Iterable

METADATA_KEY = "bot_deploy.contract"
FORMAT = 1
MEAN = (0.485, 0.456, 0.406)  # ImageNet's, for RGB in [0, 1] (paper section 2, step 5)
STD = (0.229, 0.224, 0.225)
# Values that this version supports; a contract with any other value is refused.
SUPPORTED = {
    "color": ("RGB",),
    "resize": ("bilinear-antialias",),
    "feature": FEATURES,
    "flip": (False, True),
    "precision": PRECISIONS,
}
OLD_CALIBRATION_NAMES = {"reject": "reject_threshold", "missed": "false_reject_rate"}
OPTIONAL = {"flip", "precision", "calibration"}  # fields that older files lack
INPUT_NAME = "images"  # uint8 [N, height, width, 3]
OUTPUT_NAME = "embeddings"  # float32 [N, dim], L2-normalised


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The cosine thresholds of a model, as `bot calibrate` measured them; see bot_deploy/matching/calibrate.py."""

    data: str  # name of the data set that they were measured on
    genuine: int  # number of pairs of one identity from different cameras
    impostor: int  # number of pairs of different identities
    target: float  # false-accept rate that was asked for
    threshold: float  # smallest cosine whose false-accept rate is at most `target`
    reject_threshold: float  # cosine below which the answer is "no match"
    false_reject_rate: float  # share of genuine pairs below the threshold
    curve: tuple[tuple[float, float], ...]  # (cosine, false-accept rate), ascending in cosine


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Input and output of a model: uint8 images [N, height, width, 3] to unit embeddings, float32 [N, dim]."""

    arch: str  # backbone, e.g. "resnet50"
    height: int  # pixels
    width: int  # pixels
    dim: int  # length of an embedding
    fingerprint: str  # see `weights_fingerprint`
    color: str = "RGB"  # channel order of the images
    resize: str = "bilinear-antialias"  # kernel of images.resize
    mean: tuple[float, float, float] = MEAN  # subtracted in the network, from pixels scaled to [0, 1]
    std: tuple[float, float, float] = STD
    feature: str = "fi"  # "fi" after the neck (BNNeck, paper section 3.5), "ft" before it
    flip: bool = False  # True: the mean of the embeddings of the image and its mirror image
    precision: str = "fp32"  # precision of the backbone: "fp32", "fp16" or "int8"
    calibration: Calibration | None = None
    format: int = FORMAT

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    @property
    def embedding_space(self) -> str:
        """Name of the embedding space. Embeddings with the same name can be compared; precision and flip may differ."""
        return f"{self.fingerprint}-{self.feature}"

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def from_json(text: str, source: str) -> Contract:
    """The contract that `Contract.to_json` wrote; `source` names the file in errors.

    Raises:
        InputError: not a contract, damaged, or something in it that this version cannot do.
    """
    contract = parse_fields(
        text, _contract, source=source, kind="contract", version=FORMAT, remedy="export the model again"
    )
    for name, known in SUPPORTED.items():
        if getattr(contract, name) not in known:
            raise InputError(
                f"{source}: made for {name} {getattr(contract, name)!r}, which this bot_deploy does not support; "
                "install the version that exported it"
            )
    return contract


def _contract(fields: dict[str, Any]) -> Contract:
    missing = {field.name for field in dataclasses.fields(Contract)} - OPTIONAL - set(fields)
    if missing:
        raise ValueError(f"missing: {', '.join(sorted(missing))}")
    if not all(type(fields[name]) is int and fields[name] > 0 for name in ("height", "width", "dim")):
        raise ValueError("wrong: height, width or dim")
    for name in ("mean", "std"):
        fields[name] = tuple(float(value) for value in fields[name])
    if fields.get("calibration"):
        fields["calibration"] = _calibration(fields["calibration"])
    return Contract(**fields)


def _calibration(fields: dict[str, Any]) -> Calibration:
    fields = {OLD_CALIBRATION_NAMES.get(name, name): value for name, value in fields.items()}
    curve = tuple((float(cosine), float(rate)) for cosine, rate in fields["curve"])
    if not curve or not all(0 < rate <= 1 for _, rate in curve):
        raise ValueError("calibration")
    return Calibration(**{**fields, "curve": curve})


def weights_fingerprint(tensors: Iterable[tuple[str, bytes]]) -> str:
    """16 hex digits that identify the weights `tensors`, (name, bytes) each; their order does not matter.

    Only the weights that inference uses count. Models with the same fingerprint share an embedding space.
    """
    digest = hashlib.sha256()
    for name, data in sorted(tensors):
        digest.update(name.encode())
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()[:16]
