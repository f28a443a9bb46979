"""Writes an exported model for another program, and compares it through the preprocessing of that program."""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy import images
from bot_deploy.artifacts import read_contract
from bot_deploy.artifacts.contract import FRONT_KEY, INPUT_NAME, METADATA_KEY, OUTPUT_NAME
from bot_deploy.backends.fixed_batch import in_fixed_batches
from bot_deploy.backends.onnxruntime import open_session
from bot_deploy.embedder import Embedder
from bot_deploy.errors import ImageError, InputError, on_one_line
from bot_deploy.sampling import evenly_spread

from .exported_model import ExportedModel, ResizeSkew, publish, unverified_path
from .front import with_front
from .opset import lower_opset
from .parity import TOLERANCES, compare_embeddings
from .program_files import write_program_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.datasets import Dataset
    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels

    from .consumers import Consumer, Input

logger = logging.getLogger(__name__)

SKEW_CROPS = 64


def export_for(
    consumer: Consumer, source: Path, reference: Embedder, dataset: Dataset, crops: Pixels, out: Path, opset: int
) -> ExportedModel:
    """Writes model.NAME.onnx for `consumer`, and what else it needs, into the folder `out`.

    Args:
        consumer: from `make_consumer`.
        source: a complete graph with its contract, of `bot export` or `bot wrap`.
        reference: the same network, which its embeddings are compared with.
        dataset: its crops, in their own size, also pass through the program's resize.
        crops: uint8 [N, H, W, 3] of the contract's size to compare on.
        out: folder; it is made if it is missing.
        opset: newest ONNX opset version that the program reads.

    Raises:
        InputError: the graph has no place for such a front, or cannot be written in such an opset.
        RunError: the folder cannot be written.
    """
    contract = read_contract(source)
    consumer = _for_batch_of(source, consumer)
    final = out / f"model.{consumer.name}.onnx"
    logger.info(f"writing for {consumer.name}: {_describe(consumer, contract)}")
    with unverified_path(final) as path:
        _write(source, consumer, contract, path, opset)
        embed = _open(path, consumer, contract)
        parity = compare_embeddings(
            reference, Embedder(contract, consumer.name, embed), crops, TOLERANCES[contract.precision]
        )
        skew = _measure_skew(reference, embed, dataset) if consumer.own_resize and parity.passed else None
        published = publish(path, final, parity)
        files = write_program_files(consumer, contract, published) if parity.passed else ()
    return ExportedModel(published, contract.precision, dataset.name, parity, resize_skew=skew, files=files)


def _for_batch_of(source: Path, consumer: Consumer) -> Consumer:
    """`consumer`, with the number of images of a graph that takes no other number, as `bot wrap` makes some."""
    import onnx

    batch = onnx.load(str(source)).graph.input[0].type.tensor_type.shape.dim[0].dim_value
    if not batch:
        return consumer
    if consumer.name == "triton":
        raise InputError(f"{source}: takes {batch} images at a time, and Triton makes batches of any size")
    if consumer.front.batch not in {None, batch}:
        raise InputError(f"{source}: takes {batch} images at a time, and no other number", parameter="batch_static")
    return replace(consumer, front=replace(consumer.front, batch=batch))


def _describe(consumer: Consumer, contract: Contract) -> str:
    front, size = consumer.front, f"{contract.height}, {contract.width}"
    shape = f"uint8 [N, {size}, 3]" if front.layout == "uint8-nhwc" else f"float32 [N, 3, {size}]"
    batch = f"{front.batch} images" if front.batch else "any number of images"
    unit = "unit vectors" if front.unit_length else "vectors of any length"
    return f"{shape}, RGB, {front.pixel_range}, {batch}; {unit}"


def _write(source: Path, consumer: Consumer, contract: Contract, path: Path, opset: int) -> None:
    import onnx

    model = lower_opset(with_front(onnx.load(str(source)), consumer.front), opset)
    front = consumer.front
    # `bot` opens a file with a contract, and feeds it as the contract says.
    described = {**asdict(front), "consumer": consumer.name, "contract": json.loads(contract.to_json())}
    entries = {METADATA_KEY: contract.to_json()} if front.is_ours else {FRONT_KEY: json.dumps(described)}
    onnx.helper.set_model_props(model, entries)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise InputError(f"{source}: has no place for another front ({on_one_line(error)[:200]})") from None
    onnx.save(model, str(path))


def _open(path: Path, consumer: Consumer, contract: Contract) -> Callable[[Iterable[Pixels]], Vectors]:
    """The file as the program uses it: crops RGB uint8 [H, W, 3] of any size -> unit vectors [N, D]."""
    session = open_session(path, "cpu", 0)

    def run(values: Input) -> Vectors:
        vectors = np.asarray(session.run([OUTPUT_NAME], {INPUT_NAME: values})[0], np.float32)
        return vectors if consumer.front.unit_length else vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    run_any = in_fixed_batches(run, consumer.front.batch) if consumer.front.batch else run
    return lambda crops: run_any(np.stack([consumer.prepare(crop, contract) for crop in crops]))


def _measure_skew(
    reference: Embedder, embed: Callable[[Iterable[Pixels]], Vectors], dataset: Dataset
) -> ResizeSkew | None:
    """The cosines between our embeddings of crops in their own size and the program's; None without such crops."""
    files = [*dataset.query, *dataset.gallery, *dataset.train]
    crops = []
    for index in evenly_spread(len(files), SKEW_CROPS):
        with contextlib.suppress(ImageError):
            crops.append(images.read_image(files[index].path))
    if not crops:
        return None
    ours = reference.compute(np.stack([images.resize(crop, reference.contract.size) for crop in crops]))
    cosines = (ours * embed(crops)).sum(1)
    return ResizeSkew(len(crops), float(cosines.mean()), float(cosines.min()))
