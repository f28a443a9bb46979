"""`bot adapt`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .footage import check_one_source, open_video_indexes
from .model_choice import choose_model, model_name, open_model, say_terms
from .options import DETECTOR, FOOTAGE, JSON, Address, model_argument, runtime

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bot_deploy.embedder import Embedder, Vectors
    from bot_deploy.errors import ImageError
    from bot_deploy.gallery import Index


@click.command()
@model_argument()
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Crops of people, without labels; the camera is in their names or folders.",
)
@click.option(
    "--gallery", type=Address(), metavar="INDEX", help="Index that `bot index` made; nothing is embedded again."
)
@FOOTAGE
@click.option(
    "--whiten",
    is_flag=True,
    help="Also whiten: directions in which all embeddings differ much count less. It helps some models far from their "
    "training data, and costs others.",
)
@click.option(
    "--batch-norm",
    is_flag=True,
    help="Measure the statistics of the batch-norm layers again, instead of camera means; MODEL is a checkpoint, the "
    "folder of a run, or `box` (the default), and FILE a checkpoint.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Adapted model to write; default: model.onnx, or model.pt, in a new folder runs/adapted.",
)
@DETECTOR
@runtime
@JSON
def adapt(
    model: Path | None,
    images: Path | None,
    gallery: str | None,
    videos: tuple[Path, ...],
    whiten: bool,
    batch_norm: bool,
    out: Path | None,
    detector: Path | None,
    device: str,
    threads: int,
    batch: int,
    as_json: bool,
) -> None:
    """Correct MODEL for the differences between your cameras: no labels, no training.

    The new model carries the mean embedding of each camera. `bot match`, `people`, `eval`, `calibrate`, `demo` and
    `serve` subtract it where a camera is known. Indexes of MODEL stay valid. Without MODEL, the newest export is
    adapted, or else the built-in model. Calibrate the new model: a threshold of MODEL does not hold for it.

    Without --out, the new model is the newest one under runs/, so commands without --model use it from now on.

    --batch-norm changes the network instead, so its indexes are made again. Which of the two helps depends on the model
    and the cameras: docs/adapt.md has figures.
    """
    from bot_deploy import runs
    from bot_deploy.console import say, show, show_json
    from bot_deploy.files import prepare_output, require_path
    from bot_deploy.gallery import open_index
    from bot_deploy.matching.adapt import fit_adaptation, write_adapted

    if whiten and batch_norm:
        raise click.UsageError("--whiten goes with camera means, not with --batch-norm")
    check_one_source(
        images,
        gallery,
        videos,
        detector,
        "give the crops of your cameras: --images FOLDER, --gallery INDEX or --footage VIDEO",
    )
    if images:
        require_path(images, "folder of crops")
    model = _checkpoint(model) if batch_norm else choose_model(model)
    suffix = ".pt" if batch_norm else model.suffix
    out = out or runs.new_folder("adapted") / f"model{suffix}"
    prepare_output(out, "this model", {suffix})
    if batch_norm:
        _adapt_batch_norm(model, out, images, gallery, videos, as_json=as_json)
        return
    embedder = open_model(model, device, threads=threads, batch=batch)
    names: dict[int, str] = {}  # of the cameras of videos
    if images:
        vectors, cameras = _embed_folder(images, embedder)
    elif gallery:
        vectors, cameras, names = _read_indexes([open_index(gallery, embedder.contract)])
    else:
        vectors, cameras, names = _read_indexes(open_video_indexes(videos, embedder, detector, threads))
    adaptation = fit_adaptation(vectors, cameras, names, whiten=whiten)
    write_adapted(model, out, adaptation)
    counts = {names.get(camera, str(camera)): count for camera, count in sorted(adaptation.means.crops.items())}
    if as_json:
        show_json(
            {
                "model": str(out),
                "crops": adaptation.crops,
                "whitened": whiten,
                "cameras": counts,
                "camera_gap": {"before": adaptation.gap_before, "after": adaptation.gap_after},
            }
        )
    else:
        show(
            f"{adaptation.crops} crops of {len(counts)} cameras: "
            + ", ".join(f"camera {camera}: {count}" for camera, count in counts.items()),
            "mean cosine of two crops from one camera, minus that of two cameras: "
            f"{adaptation.gap_before:.4f} before, {adaptation.gap_after:.4f} after",
        )
    added = "the mean of each camera" + " and whitening" * whiten
    source = f"--gallery {gallery}" if gallery else "--footage VIDEO" if videos else "--data CROPS"
    say(f"wrote {out}, {model_name(model)} with {added}; next: bot calibrate {out} {source}")


def _checkpoint(model: Path | None) -> Path:
    """The checkpoint of MODEL for --batch-norm."""
    from bot_deploy.models import box
    from bot_deploy.train.run_files import weights_file

    return weights_file(str(model or box.NAME))


def _adapt_batch_norm(
    model: Path, out: Path, folder: Path | None, gallery: str | None, videos: Sequence[Path], *, as_json: bool
) -> None:
    """`bot adapt --batch-norm`."""
    from bot_deploy.artifacts import checkpoint
    from bot_deploy.console import say, show, show_json
    from bot_deploy.errors import InputError
    from bot_deploy.train.batch_norm import adapt_batch_norm, read_crops

    if videos:
        raise InputError("--batch-norm takes --images, or --gallery with the index of the videos", parameter="footage")
    if out.exists() and out.samefile(model):
        raise InputError(f"{out}: is the model itself; name another file", parameter="out")
    say_terms(model)
    saved = checkpoint.load(model)
    files, cameras = _find_crops(folder) if folder else _find_indexed_crops(str(gallery))
    pixels, errors = read_crops(files, saved.contract.size)
    usable = _leave_out_broken(errors)
    pixels, cameras = pixels[usable], [cameras[row] for row in usable]
    adapted = adapt_batch_norm(saved, pixels, cameras)
    checkpoint.save(adapted.checkpoint, out)
    gap = {"before": adapted.gap_before, "after": adapted.gap_after}
    if as_json:
        show_json({"model": str(out), "crops": len(pixels), "relative_gap": gap})
    else:
        show(
            f"{len(pixels)} crops of {len(set(cameras) - {None})} cameras",
            "crops of one camera are more alike than crops of two by "
            f"{gap['before']:.3f} standard deviations of all cosines before, {gap['after']:.3f} after",
        )
    say(f"wrote {out}, {model_name(model)} with batch-norm statistics of these crops; next: bot export {out}")


def _find_crops(folder: Path) -> tuple[list[Path], list[int | None]]:
    """The image files below `folder`, and their cameras."""
    from bot_deploy.datasets.names import parse_name
    from bot_deploy.gallery import scan_images

    names = list(scan_images(folder).files)
    return [folder / name for name in names], [parse_name(name).camera for name in names]


def _find_indexed_crops(gallery: str) -> tuple[list[Path], list[int | None]]:
    """The files of the crops in an index, and their cameras."""
    from bot_deploy.gallery import open_index_of_any_model

    with closing(open_index_of_any_model(gallery)) as index:
        items = sorted(item for item in index.items() if not item.error)
        return [index.root / item.path for item in items], [item.camera for item in items]


def _leave_out_broken(errors: Sequence[ImageError | None]) -> list[int]:
    """The rows of the crops that could be read; the others are named."""
    from bot_deploy.console import say_left_out

    say_left_out([error for error in errors if error], "`bot index --json` names all of them")
    return [row for row, error in enumerate(errors) if error is None]


def _embed_folder(folder: Path, embedder: Embedder) -> tuple[Vectors, list[int | None]]:
    """The embeddings of all usable images below `folder`, and their cameras."""
    from bot_deploy.errors import InputError

    files, cameras = _find_crops(folder)
    vectors, errors = embedder.embed_files(files, "crops")
    usable = _leave_out_broken(errors)
    if not usable:
        raise InputError(f"{folder}: none of {len(files)} image files is usable", parameter="images")
    return vectors[usable], [cameras[row] for row in usable]


def _read_indexes(indexes: Iterable[Index]) -> tuple[Vectors, list[int | None], dict[int, str]]:
    """The vectors in the indexes, their cameras, and the names of cameras of videos; the indexes are closed."""
    import numpy as np

    from bot_deploy.errors import InputError
    from bot_deploy.footage import Footage

    vectors: list[Vectors] = []
    cameras: list[int | None] = []
    names: dict[int, str] = {}
    for index in indexes:
        with closing(index):
            items = [item for item in index.items() if not item.error]
            names |= {number: name for name, number in Footage(index).cameras.items()}
            cameras += [item.camera for item in items]
            vectors.append(index.vectors([item.path for item in items]))
    if not cameras:
        raise InputError("no crops of people; index crops or videos of your cameras first")
    return np.concatenate(vectors), cameras, names
