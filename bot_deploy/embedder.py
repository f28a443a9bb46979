"""`open_embedder(path)`: a model that turns images into embeddings, with any runtime."""

from __future__ import annotations

import logging
import sys
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from bot_deploy.addresses import mask_address
from bot_deploy.artifacts import check_model_file, refuse_replacement
from bot_deploy.choices import AUTO_DEVICES, BACKENDS, TRITON, device_kind
from bot_deploy.driver import find_driver
from bot_deploy.errors import ImageError, InputError, RunError
from bot_deploy.images import Pixels, convert_image, read_image, read_many, resize
from bot_deploy.machine import available_cores, thread_count
from bot_deploy.models import box
from bot_deploy.models.cache import find_model
from bot_deploy.progress import show_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from bot_deploy.artifacts.contract import Contract

logger = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
ImageInput: TypeAlias = "npt.NDArray[Any] | str | Path | zipfile.Path | Image.Image | torch.Tensor"

# Greatest distance of an embedding's length from 1. bfloat16 rounds a length by up to 0.4 %.
MAX_LENGTH_ERROR = 0.01


@dataclass(frozen=True)
class Embedder:
    """A model that is ready to run, with its contract."""

    contract: Contract
    backend: str  # runtime with version, and device; shown in messages, and part of the key of the embedding cache
    compute: Callable[[Pixels], Vectors]  # uint8 [N, height, width, 3] -> [N, dim]; `run` checks the result
    batch_size: int = 32  # number of images in a batch; larger batches no longer fit the cache of a CPU
    unit_length: bool = True  # whether embeddings have length 1; experiments with Euclidean distances use others

    def run(self, batch: Pixels) -> Vectors:
        """The embeddings [N, dim] of `batch` uint8 [N, height, width, 3], checked.

        Raises:
            RunError: the model failed, or its embeddings are not finite, not of length 1, or not [N, dim].
        """
        vectors = self.compute(batch)
        if vectors.shape != (len(batch), self.contract.dim):
            raise RunError(
                f"{self.backend} gave embeddings of shape {list(vectors.shape)} instead of "
                f"{[len(batch), self.contract.dim]}; the model's contract does not fit its network"
            )
        lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))  # NaN or infinite if a number in the row is
        usable = np.abs(lengths - 1) <= MAX_LENGTH_ERROR if self.unit_length else np.isfinite(lengths)
        if not usable.all():
            bad = lengths[~usable]
            finite = np.isfinite(bad).all()
            reason = f"length {bad[0]:.3g} instead of 1" if finite else "NaN or infinite numbers"
            raise RunError(
                f"{self.backend} gave {len(bad)} of {len(batch)} embeddings that are not usable ({reason}); the "
                "weights are damaged, or the device computes wrongly; try another device or another copy of the model",
                parameter="device",
            )
        return vectors

    def check(self) -> None:
        """Embeds a fixed image of noise.

        Raises:
            RunError: as `run`.
        """
        self.run(np.random.default_rng(0).integers(0, 256, (1, *self.contract.size, 3), dtype=np.uint8))

    @overload
    def embed(
        self,
        images: ImageInput | Iterable[ImageInput],
        color: Literal["RGB", "BGR"] = "RGB",
        on_error: Literal["raise"] = "raise",
    ) -> Vectors: ...

    @overload
    def embed(
        self,
        images: ImageInput | Iterable[ImageInput | None],
        color: Literal["RGB", "BGR"] = "RGB",
        *,
        on_error: Literal["skip"],
    ) -> tuple[Vectors, Mask]: ...

    def embed(
        self,
        images: ImageInput | Iterable[ImageInput | None],
        color: Literal["RGB", "BGR"] = "RGB",
        on_error: Literal["raise", "skip"] = "raise",
    ) -> Vectors | tuple[Vectors, Mask]:
        """Unit vectors float32 [N, dim] of one or many images of any size.

        Args:
            images: one image or many. An image is a uint8 array [H, W, 3], a path, a PIL image or a torch tensor
                (uint8 [3, H, W] or [H, W, 3]). An array [N, H, W, 3] or a tensor with four dimensions is N images.
            color: the channel order of arrays and tensors. OpenCV, and so most trackers, hold BGR; the wrong order
                costs a cosine of 0.4 on a real crop. Files and PIL images carry their own order.
            on_error: "raise", or "skip" to leave a zero row for each image that is not usable: an empty crop,
                a broken file, None, a wrong dtype or shape.

        Returns:
            vectors [N, dim], where one image is [1, dim]; with `on_error="skip"` a pair of vectors and a mask,
            bool [N], which is False for the zero rows.

        Raises:
            ImageError: an image that is not usable; the message begins with its index.
            InputError: another `color` or `on_error`.
            RunError: as `run`.
        """
        if color not in {"RGB", "BGR"}:
            raise InputError(f"color is 'RGB' or 'BGR', not {color!r}", parameter="color")
        if on_error not in {"raise", "skip"}:
            raise InputError(f"on_error is 'raise' or 'skip', not {on_error!r}", parameter="on_error")
        ready: list[Pixels | ImageError] = []
        for index, image in enumerate(_as_sequence(images)):
            try:
                ready.append(resize(_pixels(image, color), self.contract.size))
            except ImageError as error:
                if on_error == "raise":
                    raise ImageError(f"image {index}: {error}") from None
                ready.append(error)
        vectors, errors = self._run_batches(ready, len(ready))
        if on_error == "raise":
            return vectors
        return vectors, np.array([error is None for error in errors], np.bool_)

    def embed_files(
        self, paths: Sequence[Path | zipfile.Path], progress_text: str | None = "embedding"
    ) -> tuple[Vectors, list[ImageError | None]]:
        """Vectors [N, dim] of the files `paths`, and the errors [N]: None, or why the row is zero.

        Threads read the files ahead. A progress bar shows `progress_text`; None shows no bar.
        """
        loaded = read_many(paths, self.contract.size, max(4, available_cores()))
        return self._run_batches(show_progress(loaded, progress_text, len(paths)), len(paths))

    def _run_batches(
        self, images: Iterable[Pixels | ImageError], count: int
    ) -> tuple[Vectors, list[ImageError | None]]:
        """Vectors [count, dim] of `images` of the model's size, and the errors among them; their rows are zero."""
        vectors = np.zeros((count, self.contract.dim), np.float32)
        errors: list[ImageError | None] = [None] * count
        rows: list[int] = []
        batch: list[Pixels] = []

        def flush() -> None:
            if batch:
                vectors[rows] = self.run(np.stack(batch))
            rows.clear()
            batch.clear()

        for row, image in enumerate(images):
            if isinstance(image, ImageError):
                errors[row] = image
                continue
            rows.append(row)
            batch.append(image)
            if len(batch) == self.batch_size:
                flush()
        flush()
        return vectors, errors


def _as_sequence(images: object) -> Iterable[object]:
    """One image as a list of one; many as they are."""
    if isinstance(images, np.ndarray) or _is_tensor(images):
        return images if images.ndim == 4 else [images]  # type: ignore[attr-defined,return-value] # noqa: PLR2004
    single_types = (str, Path, zipfile.Path, Image.Image, bytes, bytearray, Mapping)
    return images if isinstance(images, Iterable) and not isinstance(images, single_types) else [images]


def _is_tensor(image: object) -> bool:
    torch = sys.modules.get("torch")  # a tensor exists only where its user has imported torch
    return torch is not None and isinstance(image, torch.Tensor)


def _pixels(image: object, color: str) -> Pixels:
    """One image as uint8 RGB [H, W, 3].

    Raises:
        ImageError: not a usable image.
    """
    if isinstance(image, str | Path | zipfile.Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        pixels = convert_image(image, "PIL image")
        if not pixels.size:
            raise ImageError(f"PIL image of {image.width}x{image.height} pixels; an empty crop")
        return pixels
    if _is_tensor(image):
        image = _tensor_array(image)
    if not isinstance(image, np.ndarray):
        raise ImageError(
            f"{'None' if image is None else f'a {type(image).__name__}'} is no image; give a uint8 array "
            "[H, W, 3], a path, a PIL image or a torch tensor"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:  # noqa: PLR2004
        raise ImageError(_wrong_array(image.dtype, image.shape, f"uint8 {color} [H, W, 3]"))
    return image[..., ::-1] if color == "BGR" else image


def _tensor_array(tensor: Any) -> npt.NDArray[Any]:
    """A uint8 tensor [3, H, W] or [H, W, 3] as an array [H, W, 3]; [3, H, W] where both are possible."""
    shape = tuple(tensor.shape)
    if str(tensor.dtype) != "torch.uint8" or len(shape) != 3 or 3 not in {shape[0], shape[2]} or not tensor.numel():  # noqa: PLR2004
        raise ImageError(_wrong_array(tensor.dtype, shape, "uint8 [3, H, W] or [H, W, 3]"))
    array: npt.NDArray[Any] = tensor.detach().cpu().numpy()
    return array.transpose(1, 2, 0) if shape[0] == 3 else array  # noqa: PLR2004


def _wrong_array(dtype: object, shape: tuple[int, ...], expected: str) -> str:
    empty = "an empty crop; " if 0 in shape else ""
    return f"{dtype} {shape}; {empty}give {expected}, not normalised (the model normalises by itself)"


def open_embedder(
    path: str | Path | None = None, device: str = "auto", *, threads: int = 0, batch_size: int = 0, check: bool = True
) -> Embedder:
    """The model in `path`: an .onnx, an .engine, an .xml, or a .pt checkpoint; by default the built-in model.

    Args:
        path: the model, a file or a name of `bot models` that is in the cache; None or "box" for the built-in
            model, whose card is docs/model.md; or triton://host:8000/NAME for one on a Triton server.
        device: one of `choices.DEVICES`, or "cuda:1" for the second GPU; "auto" takes the first of
            `choices.AUTO_DEVICES` that works, and a warning says why a GPU is not used.
        threads: number of CPU threads; 0 for as many as this process may use.
        batch_size: number of images in a batch; 0 for the backend's own choice.
        check: embed a fixed image, so that a model without usable embeddings is refused now. `bot doctor` and
            `bot export` examine such models.

    Raises:
        InputError: no such file, not in the cache, not a model of bot_deploy, or damaged; no such device; too many
            threads.
        RunError: the runtime is not installed, or the device does not work; the message names what to install. Or the
            embedding of the fixed image is not usable. Or the file was replaced while it was opened.
        UnavailableError: the server does not answer; embedding may raise it, too.
    """
    if str(path).startswith(TRITON):
        return _open_on_server(str(path), device, batch_size, check=check)
    threads = thread_count(threads)
    path = find_model(box.NAME if path is None else path)
    check_model_file(path)
    backends = BACKENDS[path.suffix]
    if device != "auto" and not (device in backends or (device_kind(device) == "cuda" and "cuda" in backends)):
        raise InputError(f"{path}: cannot run on {device!r}; choose auto, {', '.join(backends)}")
    devices = [name for name in AUTO_DEVICES if name in backends] if device == "auto" else [device]
    failures: list[RunError] = []
    for name in devices:
        try:
            backend = import_module(f"bot_deploy.backends.{backends[device_kind(name)]}")
            with refuse_replacement(path):
                opened: Embedder = backend.open_model(path, name, threads)
        except RunError as error:
            failures.append(error)
            continue
        try:
            if check:
                opened.check()
        except RunError as error:
            failures.insert(0, RunError(f"{path}: {error}", parameter=error.parameter))
            if name != "cuda" or name == devices[-1]:  # only a GPU is in doubt; elsewhere the model is
                break
            continue
        if failures and devices[0] == "cuda" and find_driver().gpus:
            logger.warning(f"no GPU is used: {failures[0]}")
        return replace(opened, batch_size=batch_size or opened.batch_size)
    raise failures[0]


def _open_on_server(address: str, device: str, batch_size: int, *, check: bool) -> Embedder:
    if device != "auto":
        raise InputError(f"{mask_address(address)}: runs where its server runs it; name no device", parameter="device")
    opened: Embedder = import_module("bot_deploy.backends.triton").open_model(address)
    if check:
        opened.check()
    return replace(opened, batch_size=batch_size or opened.batch_size)
