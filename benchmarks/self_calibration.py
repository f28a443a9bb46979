"""Thresholds without labels against labelled ones: the false-accept rate asked and got, on people of neither.

    python benchmarks/self_calibration.py --model box --model retail.xml --data people --data VIPeR.v1.0.zip

The people of each data set (query and gallery, no distractors) are cut into two halves. Thresholds are chosen on one
and measured on the other; both ways. These data sets have no tracks: all people of a camera count as in view together,
so labels of the first half say only that two of them are two people.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import numpy as np
from embedded_data import embed_data, embedding_options

from bot_deploy import console
from bot_deploy.camera_means import fit_camera_means
from bot_deploy.matching.calibrate import choose_thresholds
from bot_deploy.matching.pairs import PairScores, bin_edges, score_pairs
from bot_deploy.matching.self_calibration import bootstrap_threshold
from bot_deploy.matching.tracks import Track, TrackScores, pair_across_cameras, score_tracks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bot_deploy.embedder import Vectors

FALSE_ACCEPT_RATE = 1e-3
COLUMNS = (
    "model", "data", "embeddings", "labelled threshold", "its rate", "its false rejects",
    "label-free threshold", "95 % interval", "its rate", "its false rejects", "genuine pairs below `no match`",
    "found pairs across cameras", "of one person", "found where nobody is the same", "their false rejects",
)  # fmt: skip


@click.command()
@embedding_options
def main(models: tuple[str, ...], sources: tuple[str, ...], device: str, threads: int) -> None:
    console.show_library_output()
    print("| " + " | ".join(COLUMNS) + " |\n" + "| --- " * len(COLUMNS) + "|")
    for data in embed_data(models, sources, device, threads):
        dataset, vectors = data.dataset, np.concatenate([data.query, data.gallery])
        crops = [*dataset.query, *dataset.gallery]
        rows = [row for row, crop in enumerate(crops) if crop.identity > 0]
        people = np.array([crops[row].identity for row in rows])
        cameras = np.array([crops[row].camera for row in rows])
        is_first = np.isin(people, np.unique(people)[::2])
        for name, is_centered in (("as they are", False), ("without camera means", True)):
            for fitted in (is_first, ~is_first):
                own = vectors[rows]
                if is_centered:
                    own = fit_camera_means(own[fitted], cameras[fitted].tolist()).center(own, cameras.tolist())
                halves = [(own[half], people[half], cameras[half]) for half in (fitted, ~fitted)]
                cells = [*data.names, name, *compare(*halves)]
                print("| " + " | ".join(cells) + " |", flush=True)


def compare(
    fitted: tuple[Vectors, Sequence[int], Sequence[int]], scored: tuple[Vectors, Sequence[int], Sequence[int]]
) -> list[str]:
    """The cells of one row, of halves (vectors, identities, cameras)."""
    labelled = choose_thresholds(score_pairs(*fitted), "", FALSE_ACCEPT_RATE).threshold
    tracks = as_tracks(*fitted)
    scores = score_tracks(tracks)
    pairs = scores.histograms()
    free = choose_thresholds(pairs, "", FALSE_ACCEPT_RATE).threshold
    low, high = bootstrap_threshold(scores, FALSE_ACCEPT_RATE)
    truth = score_pairs(*scored)
    common = float(bin_edges()[np.searchsorted(np.cumsum(pairs.impostor_counts), pairs.impostor_counts.sum() / 2)])
    return [
        f"{labelled:.3f}",
        *rates(truth, labelled),
        f"{free:.3f}",
        f"{low:.3f} to {high:.3f}",
        *rates(truth, free),
        rates(truth, common)[1],
        *pairs_across(fitted, tracks, scores, free),
    ]


def pairs_across(
    fitted: tuple[Vectors, Sequence[int], Sequence[int]], tracks: list[Track], scores: TrackScores, threshold: float
) -> list[str]:
    """The cells about the pairs of tracks on two cameras that are taken for one person, without labels."""
    labels = np.unique(np.stack([np.asarray(part) for part in fitted[1:]], axis=1), axis=0)
    people, cameras = labels.T
    pairs, _ = pair_across_cameras(tracks)
    right = [people[first] == people[second] for first, second in pairs]
    # Each person on one camera only.
    places = {person: place for place, person in enumerate(np.unique(people).tolist())}
    order = {camera: place for place, camera in enumerate(np.unique(cameras).tolist())}
    apart = [
        track
        for track, person, camera in zip(tracks, people.tolist(), cameras.tolist(), strict=True)
        if places[person] % len(order) == order[camera]
    ]
    wrong, possible = pair_across_cameras(apart)
    return [
        f"{100 * scores.share_across:.0f} %",
        f"{100 * float(np.mean(right)):.0f} %" if right else "",
        f"{100 * len(wrong) / max(possible, 1):.0f} %",
        f"{100 * float((scores.across < threshold).mean()):.1f} %" if len(scores.across) else "",
    ]


def rates(truth: PairScores, threshold: float) -> list[str]:
    """The false-accept rate and the false-reject rate of a threshold, as cells."""
    false_accepts, false_rejects = truth.error_rates()
    row = int(np.searchsorted(bin_edges(), threshold - 1e-9))
    return [f"{false_accepts[row]:.5f}", f"{100 * false_rejects[row]:.1f} %"]


def as_tracks(vectors: Vectors, people: Sequence[int], cameras: Sequence[int]) -> list[Track]:
    """A track for each person and camera; all of one camera are in view together, each at a place of its own."""
    tracks = []
    labels = np.stack([np.asarray(people), np.asarray(cameras)], axis=1)
    for number, (person, camera) in enumerate(np.unique(labels, axis=0).tolist()):
        own = vectors[(labels == (person, camera)).all(1)]
        box = (10.0 * number, 0.0, 10.0 * number + 5, 10.0)
        tracks.append(Track(camera, camera, 0.0, 1.0, own, np.zeros(len(own)), np.tile(box, (len(own), 1))))
    return tracks


if __name__ == "__main__":
    main()
