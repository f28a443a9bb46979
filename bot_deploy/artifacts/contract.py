"""The contract of a model: which images it takes and which embeddings it returns.

Checkpoints, ONNX `metadata_props` and engine sidecars hold it. All code reads the preprocessing from there.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

import numpy as np
from msgspec import Meta

from bot_deploy.choices import FEATURES, MAX_IMAGE_SIDE, MEAN, PRECISIONS, STD, feature_code, feature_name
from bot_deploy.errors import InputError

from .decoding import decode_fields, decode_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

METADATA_KEY = "bot_deploy.contract"
FRONT_KEY = "bot_deploy.front"  # in place of it, in a file for another program: what the graph takes instead
CONTRACT_FORMAT = 1
# Values that this version supports; a contract with any other value is refused.
SUPPORTED = {
    "color": ("RGB",),
    "resize": ("bilinear-antialias",),
    "feature": tuple(FEATURES),
    "flip": (False, True),
    "precision": PRECISIONS,
}
OLD_CALIBRATION_NAMES = {
    "genuine": "genuine_pairs",
    "impostor": "impostor_pairs",
    "target": "target_false_accept_rate",
    "reject": "reject_threshold",
    "missed": "false_reject_rate",
}
OPTIONAL = {
    "flip",
    "precision",
    "calibration",
    "teacher",
    "unlabelled",
    "terms",
    "camera_means",
    "whitening",
    "compatible_with",
}  # older files lack them
OPTIONAL_OF_CALIBRATION = {"is_labelled", "cameras", "threshold_interval"}  # as above
# The types of fields: a value from a file that is out of range is refused.
Side = Annotated[int, Meta(ge=1, le=MAX_IMAGE_SIDE)]  # pixels
Dim = Annotated[int, Meta(ge=1, le=65_536)]
Name = Annotated[str, Meta(max_length=200)]
Description = Annotated[str, Meta(max_length=500)]
Cosine = Annotated[float, Meta(ge=-1, le=1)]
Rate = Annotated[float, Meta(ge=0, le=1)]
PositiveRate = Annotated[float, Meta(gt=0, le=1)]
Count = Annotated[int, Meta(ge=0)]
CameraID = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Base64 = Annotated[str, Meta(max_length=4 * 65_536 * 2)]
LongBase64 = Annotated[str, Meta(max_length=128 * 4 * 65_536 * 2)]  # of 128 vectors
Mean = Annotated[float, Meta(ge=-100, le=100)]
Std = Annotated[float, Meta(ge=1e-3, le=100)]
CONTRACT_REMEDY = "export the model again"
INPUT_NAME = "images"  # uint8 [N, height, width, 3]
OUTPUT_NAME = "embeddings"  # float32 [N, dim], L2-normalised


SHIPPED_CALIBRATION = "training identities of "  # how `Calibration.data` of our own models begins


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The cosine thresholds of a model, as `bot calibrate` measured them; see bot_deploy/matching/calibrate.py."""

    data: Annotated[str, Meta(max_length=10_000)]  # name of the data set that they were measured on
    genuine_pairs: Count  # number of pairs of one identity from different cameras
    impostor_pairs: Count  # number of pairs of different identities
    target_false_accept_rate: PositiveRate  # share of impostor pairs that may reach the threshold
    threshold: Cosine  # smallest cosine whose false-accept rate is at most the target
    reject_threshold: Cosine  # cosine below which the answer is "no match"
    false_reject_rate: Rate  # share of genuine pairs below the threshold
    curve: tuple[tuple[Cosine, PositiveRate], ...]  # (cosine, false-accept rate), ascending in cosine
    is_labelled: bool = True  # False: of tracks, see matching/self_calibration.py; genuine pairs are of tracks then
    cameras: tuple[CameraID, ...] = ()  # that it was measured on; (): unknown
    threshold_interval: tuple[Cosine, Cosine] | None = None  # 95 % bootstrap interval of the threshold


@dataclass(frozen=True, kw_only=True)
class StoredCameraMean:
    """The mean embedding of one camera, or of all, as `bot adapt` measured it; see bot_deploy/camera_means.py."""

    camera: CameraID | None  # None: of all cameras
    crops: Count  # that it was measured on
    mean: Base64  # float16 [dim], little-endian

    def decode(self, dim: int) -> npt.NDArray[np.float32]:
        """The mean as float32 [dim]; raises ValueError if it is damaged."""
        vectors = decode_vectors(self.mean, dim, "camera_means")
        if len(vectors) != 1:
            raise ValueError(f"camera_means: not {dim} numbers")
        mean: npt.NDArray[np.float32] = vectors[0]
        return mean


def encode_vectors(vectors: npt.NDArray[np.float32]) -> str:
    """Base64 of `vectors` as little-endian float16."""
    return base64.b64encode(vectors.astype("<f2").tobytes()).decode()


def decode_vectors(text: str, dim: int, name: str) -> npt.NDArray[np.float32]:
    """The vectors [N, dim] that `encode_vectors` wrote; raises ValueError with the `name` of the field if damaged."""
    values = np.frombuffer(base64.b64decode(text, validate=True), "<f2").astype(np.float32)
    if len(values) % dim or not np.isfinite(values).all():
        raise ValueError(f"{name}: not vectors of {dim} finite numbers")
    return values.reshape(-1, dim)


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Input and output of a model: uint8 images [N, height, width, 3] to unit embeddings, float32 [N, dim]."""

    arch: Name  # backbone, e.g. "resnet50"
    height: Side  # pixels
    width: Side  # pixels
    dim: Dim  # length of an embedding
    fingerprint: Name  # see `weights_fingerprint`
    color: str = "RGB"  # channel order of the images
    resize: str = "bilinear-antialias"  # kernel of images.resize
    mean: tuple[Mean, Mean, Mean] = MEAN  # subtracted in the network, from pixels scaled to [0, 1]
    std: tuple[Std, Std, Std] = STD
    feature: str = "after"  # "after" or "before" BNNeck (paper section 3.5); files hold the paper's "fi" or "ft"
    flip: bool = False  # True: the mean of the embeddings of the image and its mirror image
    precision: str = "fp32"  # precision of the backbone: "fp32", "fp16" or "int8"
    calibration: Calibration | None = None
    teacher: Description = ""  # backbone and embedding space of the model that it was distilled from
    unlabelled: tuple[Description, ...] = ()  # names of training data that only the teacher labelled
    terms: Description = ""  # what the model may be used for; a model that starts from its weights inherits them
    camera_means: tuple[StoredCameraMean, ...] = ()  # of the cameras that it was adapted to; the first one is of all
    whitening: LongBase64 = ""  # float16 [R, dim], see `CameraMeans.whitening`; "": none
    compatible_with: tuple[
        Name, ...
    ] = ()  # embedding spaces of earlier models that its embeddings can be compared with
    format: int = CONTRACT_FORMAT

    def __post_init__(self) -> None:
        object.__setattr__(self, "feature", feature_name(self.feature))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    @property
    def embedding_space(self) -> str:
        """Name of the embedding space. Embeddings with the same name can be compared; precision and flip may differ."""
        return f"{self.fingerprint}-{feature_code(self.feature)}"

    @property
    def searchable_spaces(self) -> tuple[str, ...]:
        """The embedding spaces whose embeddings can be compared with this model's; the first one is its own."""
        return self.embedding_space, *self.compatible_with

    def to_json(self) -> str:
        fields = {**dataclasses.asdict(self), "feature": feature_code(self.feature)}
        return json.dumps(fields, sort_keys=True)


def from_json(text: str, source: str) -> Contract:
    """The contract that `Contract.to_json` wrote; `source` names the file in errors.

    Raises:
        InputError: not a contract, damaged, or something in it that this version cannot do.
    """
    return decode_contract(decode_json(text, source, "contract", CONTRACT_REMEDY), source)


def decode_calibration(fields: dict[str, object], source: str) -> Calibration:
    """The calibration with `fields` from a file, in a contract or alone; `source` names the file in errors.

    Raises:
        InputError: damaged.
    """
    return decode_fields(
        {OLD_CALIBRATION_NAMES.get(name, name): value for name, value in fields.items()},
        Calibration,
        source=source,
        kind="contract",
        remedy=CONTRACT_REMEDY,
        optional=OPTIONAL_OF_CALIBRATION,
        check=_check_calibration,
    )


def decode_contract(fields: object, source: str) -> Contract:
    """The contract with `fields` from a file; see `from_json`."""
    if (
        isinstance(fields, dict)
        and fields.get("format") == CONTRACT_FORMAT
        and isinstance(fields.get("calibration"), dict)
    ):
        fields = {**fields, "calibration": decode_calibration(fields["calibration"], source)}
    contract = decode_fields(
        fields,
        Contract,
        source=source,
        kind="contract",
        version=CONTRACT_FORMAT,
        remedy=CONTRACT_REMEDY,
        optional=OPTIONAL,
        check=_check_camera_means,
    )
    for name, known in SUPPORTED.items():
        if getattr(contract, name) not in known:
            raise InputError(
                f"{source}: made for {name} {getattr(contract, name)!r:.40}, which this bot_deploy does not support; "
                "install the version that exported it"
            )
    return contract


def _check_calibration(calibration: Calibration) -> None:
    if calibration.reject_threshold > calibration.threshold:
        raise ValueError("calibration: reject_threshold is above threshold")
    if not calibration.curve:
        raise ValueError("calibration: no curve")
    for (cosine, rate), (next_cosine, next_rate) in pairwise(calibration.curve):
        if cosine >= next_cosine or rate < next_rate:
            raise ValueError("calibration: its curve is not in order")


def _check_camera_means(contract: Contract) -> None:
    cameras = [stored.camera for stored in contract.camera_means]
    if cameras and (cameras[0] is not None or None in cameras[1:] or len(set(cameras)) < len(cameras)):
        raise ValueError("camera_means: not one of all cameras, and one of each")
    for stored in contract.camera_means:
        stored.decode(contract.dim)
    if decode_vectors(contract.whitening, contract.dim, "whitening").size and not cameras:
        raise ValueError("whitening: without camera_means")


def weights_fingerprint(tensors: Iterable[tuple[str, bytes]]) -> str:
    """16 hex digits that identify the weights `tensors`, (name, bytes) each; their order does not matter.

    Only the weights that inference uses count. Models with the same fingerprint share an embedding space.
    """
    digest = hashlib.sha256()
    for name, data in sorted(tensors):
        digest.update(name.encode())
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()[:16]
