"""Wraps a model of another toolkit (ONNX, OpenVINO IR, TorchScript) as a model file like an exported one.

Preprocessing goes before the network and L2 normalisation after it, in one graph with a contract. The result is
compared with the original, which gets the same crops as arrays.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from bot_deploy.artifacts.contract import Contract, weights_fingerprint
from bot_deploy.choices import COLORS, MAX_IMAGE_SIDE, PIXEL_RANGES, SYNTHETIC
from bot_deploy.datasets import Dataset, open_dataset
from bot_deploy.embedder import Embedder, open_embedder
from bot_deploy.errors import BotError, InputError, ParityError, RunError
from bot_deploy.files import prepare_output

from .exported_model import ExportedModel, publish, unverified_path
from .parity import TOLERANCES, compare_embeddings, sample_crops

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels

    from .parity import Parity

logger = logging.getLogger(__name__)

# file suffix -> the module that opens such a model
FORMATS = {
    ".onnx": "wrap_onnx",
    ".xml": "wrap_openvino",
    ".torchscript": "wrap_torchscript",
    ".pt": "wrap_torchscript",
}
IMAGE_DIMS = 4  # of a batch of images
CHANNELS = 3
MAX_DIM = 65_536  # dimensions of an embedding
MIN_STD, MAX_STD, MAX_MEAN = 1e-3 * 255, 100.0 * 255, 100.0 * 255  # for pixels from 0 to 255; the contract's limits
Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """What a model takes: its size, and pixel * scale + offset for each channel in its order."""

    height: int
    width: int
    color: str  # one of COLORS
    scale: tuple[float, ...]
    offset: tuple[float, ...]

    @property
    def is_identity(self) -> bool:
        """Whether the model takes pixels from 0 to 255 as they are, so that integers stay integers."""
        return set(self.scale) == {1.0} and set(self.offset) == {0.0}

    def apply(self, batch: Pixels, layout: str) -> npt.NDArray[np.float32]:
        """RGB images uint8 [N, H, W, 3] as the model takes them, float32 in the layout "NCHW" or "NHWC"."""
        ordered = batch[..., ::-1] if self.color == "BGR" else batch
        values = ordered.astype(np.float32) * np.array(self.scale, np.float32) + np.array(self.offset, np.float32)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if layout == "NCHW" else values)


@dataclass(frozen=True)
class InputShape:
    """What the shape of a model's only input says."""

    layout: str  # "NCHW" or "NHWC"
    batch: int | None  # None: any
    height: int | None
    width: int | None


class ForeignModel(Protocol):
    """A model of another toolkit, opened by one of the modules in FORMATS."""

    input_shape: InputShape
    precision: str  # one of choices.PRECISIONS
    weights: list[tuple[str, bytes]]  # for the fingerprint

    def run(self, values: npt.NDArray[np.float32]) -> Vectors:
        """The output for one batch of the model's own size."""

    def write(self, path: Path, preprocessing: Preprocessing, contract: Contract, *, free_batch: bool) -> None:
        """Writes the wrapped graph; with `free_batch`, a fixed batch size is replaced by any."""


def wrap_model(
    source: str | Path,
    out: str | Path,
    *,
    size: tuple[int, int] | None = None,
    color: str = "RGB",
    pixel_range: str = "0-255",
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    data: str | Path | Dataset = SYNTHETIC,
    output_name: str | None = None,
    terms: str = "",
) -> ExportedModel:
    """Wraps the model in `source` as a model file at `out`: uint8 [N, H, W, 3] RGB in, unit vectors [N, D] out.

    The model gets (pixel / r - mean) / std, where r is 1 for the range "0-255" and 255 for "0-1". A graph with a fixed
    batch size becomes one for any batch size, if its embeddings stay the same; otherwise the backend runs it several
    times. A model that fails the comparison with the original is kept as *.rejected; check `ExportedModel.rejected`.

    Args:
        source: an .onnx, the .xml of an OpenVINO IR with its .bin beside it, or TorchScript (.torchscript or .pt).
        out: file to write; an IR stays an .xml, and all others become an .onnx.
        size: height and width of the crops in pixels; by default those of the graph, which TorchScript does not have.
        color: channel order that the model takes, "RGB" or "BGR".
        pixel_range: range of the pixels that the model takes, "0-255" or "0-1".
        mean: subtracted from the pixels in `pixel_range`; one number, or one for each channel in the model's order.
        std: divides the result; as `mean`.
        data: data set with crops to compare on, opened or not.
        output_name: the output with the embeddings, if there are several; TorchScript's are output_0, output_1, ...
        terms: what the model may be used for, in a sentence; kept in the contract.

    Raises:
        InputError: no such file, not such a model, no image input, no output [N, D], or values that do not fit it.
        RunError: the runtime is not installed, the model fails, or the file cannot be written.
    """
    source, out = Path(source), Path(out)
    _check_source(source, out)
    model: ForeignModel = import_module(f"bot_deploy.export.{FORMATS[source.suffix]}").open_foreign(source, output_name)
    preprocessing, mean_of_unit_range, std_of_unit_range = _preprocessing(
        model.input_shape, size, color, pixel_range, mean, std
    )
    dim = _check_output(model, preprocessing, source)
    fields = repr(sorted(asdict(preprocessing).items())).encode()
    contract = Contract(
        arch=f"wrapped:{source.stem}"[:200],
        height=preprocessing.height,
        width=preprocessing.width,
        dim=dim,
        fingerprint=weights_fingerprint([*model.weights, ("preprocessing", fields)]),
        precision=model.precision,
        mean=mean_of_unit_range,
        std=std_of_unit_range,
        terms=terms,
    )
    dataset = data if isinstance(data, Dataset) else open_dataset(data)
    crops = sample_crops(dataset, contract.size)
    prepare_output(out, "the model file", [output_suffix(source)])
    reference = Embedder(contract, "the original", _reference(model, preprocessing))
    # A fixed batch size is tried without first; the comparison decides whether that is the same network.
    attempts = (False,) if model.input_shape.batch is None else (True, False)
    with unverified_path(out) as path:
        for free_batch in attempts:
            last = free_batch == attempts[-1]
            try:
                model.write(path, preprocessing, contract, free_batch=free_batch)
                parity = _compare(reference, path, crops)
            except BotError as error:
                if last:
                    raise
                logger.info(f"the graph works only with its own batch size ({error})")
                continue
            if parity.passed or last:
                break
            logger.info("with another batch size the graph gives other embeddings, so it keeps its own")
        for line in (f"parity with the original on {dataset.name}:", *parity.table().splitlines()):
            logger.info(line)
        return ExportedModel(publish(path, out, parity), contract.precision, dataset.name, parity)


def output_suffix(source: Path) -> str:
    """The suffix of the model file that is made of `source`."""
    return ".xml" if source.suffix == ".xml" else ".onnx"


def require_parity(model: ExportedModel) -> None:
    """Raises a ParityError if `model` was rejected."""
    if model.rejected:
        raise ParityError(f"embeddings differ from the original's; kept as {model.path}, which must not be used")


def find_input_shape(names: Sequence[str], shape: Sequence[int | None] | None, source: Path) -> InputShape:
    """What the shape of the input says; None is a dimension that may vary.

    Raises:
        InputError: several inputs, or no image input.
    """
    if len(names) != 1:
        raise InputError(
            f"{source}: has {len(names)} inputs ({', '.join(names)[:200]}); a model that can be wrapped takes one "
            "batch of images"
        )
    shown = "unknown" if shape is None else [size if size is not None else "any" for size in shape]
    if shape is not None and len(shape) == IMAGE_DIMS and shape[1] == CHANNELS:
        return InputShape("NCHW", shape[0], shape[2], shape[3])
    if shape is not None and len(shape) == IMAGE_DIMS and shape[3] == CHANNELS:
        return InputShape("NHWC", shape[0], shape[1], shape[2])
    raise InputError(
        f"{source}: its input {names[0]!r} has the shape {shown}, which is no batch of colour images [N, 3, H, W] or "
        "[N, H, W, 3]"
    )


def choose_output(names: Sequence[str], output: str | None, source: Path) -> int:
    """The index of the output with the embeddings.

    Raises:
        InputError: no such output, or several to choose from.
    """
    if output is not None and output not in names:
        raise InputError(
            f"{source}: has no output {output!r}; choose from {', '.join(names)[:200]}", parameter="output_name"
        )
    if output is None and len(names) != 1:
        raise InputError(
            f"{source}: has {len(names)} outputs ({', '.join(names)[:200]}); name the one with the embeddings",
            parameter="output_name",
        )
    return names.index(output) if output is not None else 0


def _check_source(source: Path, out: Path) -> None:
    if source.suffix not in FORMATS:
        raise InputError(f"{source}: {', '.join(FORMATS)} files can be wrapped (OpenVINO IR: name its .xml)")
    if not source.is_file():
        raise InputError(f"{source}: no such model file")
    if out.suffix != output_suffix(source):
        raise InputError(f"{out}: the model file of {source.name} ends in {output_suffix(source)}", parameter="out")
    if out.exists() and out.samefile(source):
        raise InputError(f"{out}: is the file to wrap; name another", parameter="out")


def _preprocessing(
    input_shape: InputShape,
    size: tuple[int, int] | None,
    color: str,
    pixel_range: str,
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[Preprocessing, Rgb, Rgb]:
    """The preprocessing, and the mean and std of the contract: in RGB order, for pixels from 0 to 1."""
    if color not in COLORS:
        raise InputError(f"color {color!r}; choose from {', '.join(COLORS)}", parameter="color")
    if pixel_range not in PIXEL_RANGES:
        raise InputError(f"range {pixel_range!r}; choose from {', '.join(PIXEL_RANGES)}", parameter="range")
    height, width = _image_size(input_shape, size)
    divisor = PIXEL_RANGES[pixel_range]
    means, stds = _channels(mean, "mean"), _channels(std, "std")
    if not all(MIN_STD <= value * divisor <= MAX_STD for value in stds):
        raise InputError(f"std {list(stds)} does not fit pixels from {pixel_range}", parameter="std")
    if not all(abs(value) * divisor <= MAX_MEAN for value in means):
        raise InputError(f"mean {list(means)} does not fit pixels from {pixel_range}", parameter="mean")
    scale = tuple(1 / (divisor * value) for value in stds)
    offset = tuple(0.0 - value / deviation for value, deviation in zip(means, stds, strict=True))
    unit_mean, unit_std = (
        _in_rgb_order([value * divisor / 255 for value in values], color) for values in (means, stds)
    )
    return Preprocessing(height, width, color, scale, offset), unit_mean, unit_std


def _in_rgb_order(values: Sequence[float], color: str) -> Rgb:
    first, green, last = values
    return (last, green, first) if color == "BGR" else (first, green, last)


def _channels(values: Sequence[float], name: str) -> tuple[float, ...]:
    if len(values) not in {1, CHANNELS} or not np.isfinite(values).all():
        raise InputError(f"{name} takes one number or three, not {list(values)}", parameter=name)
    return tuple(float(value) for value in (values if len(values) == CHANNELS else [values[0]] * CHANNELS))


def _image_size(input_shape: InputShape, size: tuple[int, int] | None) -> tuple[int, int]:
    fixed = (input_shape.height, input_shape.width)
    if size is None:
        if None in fixed:
            raise InputError("the model takes crops of any size; name the one it was trained on", parameter="size")
        size = (input_shape.height or 0, input_shape.width or 0)
    if any(own not in {None, given} for own, given in zip(fixed, size, strict=True)):
        raise InputError(
            f"the model takes crops of {fixed[0] or 'any'}x{fixed[1] or 'any'} (height x width), not "
            f"{size[0]}x{size[1]}",
            parameter="size",
        )
    if not all(1 <= side <= MAX_IMAGE_SIDE for side in size):
        raise InputError(f"crops of {size[0]}x{size[1]} pixels; sides are from 1 to {MAX_IMAGE_SIDE}", parameter="size")
    return size


def _check_output(model: ForeignModel, preprocessing: Preprocessing, source: Path) -> int:
    """The length of an embedding: the model runs once on noise."""
    batch = model.input_shape.batch or 1
    shape = (batch, preprocessing.height, preprocessing.width, CHANNELS)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    values = model.run(preprocessing.apply(noise, model.input_shape.layout))
    dims = list(values.shape)
    if len(dims) < 2 or dims[0] != batch or any(size != 1 for size in dims[2:]) or not 2 <= dims[1] <= MAX_DIM:  # noqa: PLR2004
        spatial = "; it still has a height and a width, so the graph lacks pooling" if len(dims) == IMAGE_DIMS else ""
        raise InputError(
            f"{source}: for {batch} image{'s' * (batch > 1)} its output has the shape {dims}, which is not one vector "
            f"for each image{spatial}"
        )
    if not np.isfinite(values).all():
        raise InputError(f"{source}: its output for a picture of noise is not finite; check range, mean and std")
    return int(dims[1])


def _reference(model: ForeignModel, preprocessing: Preprocessing) -> Callable[[Pixels], Vectors]:
    """The original as a function like `Embedder.compute`, one batch of its own size after the other."""
    size = model.input_shape.batch or 1

    def run(batch: Pixels) -> Vectors:
        rows = []
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            full = np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)])
            output = model.run(preprocessing.apply(full, model.input_shape.layout))
            rows.append(output.reshape(size, -1)[: len(part)])
        vectors = np.concatenate(rows)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)

    return run


def _compare(reference: Embedder, path: Path, crops: Pixels) -> Parity:
    candidate = open_embedder(path, check=False)

    def run(batch: Pixels) -> Vectors:
        vectors = candidate.compute(batch)
        if vectors.shape != (len(batch), candidate.contract.dim):
            raise RunError(f"{len(batch)} images gave an output of the shape {list(vectors.shape)}")
        return vectors

    return compare_embeddings(
        reference, replace(candidate, compute=run), crops, TOLERANCES[candidate.contract.precision]
    )
