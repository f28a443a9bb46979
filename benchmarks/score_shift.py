"""What `bot doctor --gallery` measures at home and elsewhere: each threshold, on the people of each data set.

    python benchmarks/score_shift.py --model box --data people --data VIPeR.v1.0.zip

A threshold is chosen on half of the people of a data set, with labels and without, or is the model's own. The gallery
is the other half of a data set; all of its people of a camera count as in view together.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from self_calibration import FALSE_ACCEPT_RATE, as_tracks

from bot_deploy import console, open_embedder
from bot_deploy.datasets import open_dataset
from bot_deploy.doctor.score_shift import measure_score_shift
from bot_deploy.evaluation.embeddings import embed_or_reuse
from bot_deploy.matching.calibrate import choose_thresholds
from bot_deploy.matching.pairs import score_pairs
from bot_deploy.matching.tracks import score_tracks
from bot_deploy.models.cache import find_model


@click.command()
@click.option("--model", "models", multiple=True, required=True, help="Model, a file or a name; repeatable.")
@click.option("--data", "sources", multiple=True, required=True, help="Data set with query and gallery; repeatable.")
@click.option("--threads", default=0, help="Number of CPU threads.")
def main(models: tuple[str, ...], sources: tuple[str, ...], threads: int) -> None:
    console.show_library_output()
    print("| model | threshold of | gallery | distance | false accepts |\n" + "| --- " * 5 + "|")
    for model in models:
        embedder = open_embedder(find_model(model), threads=threads)
        calibrations = {}
        if embedder.contract.calibration:
            calibrations["its own data"] = embedder.contract.calibration
        galleries = {}
        for source in sources:
            dataset, name = open_dataset(source), Path(source).name
            crops = [*dataset.query, *dataset.gallery]
            vectors = np.concatenate(
                [
                    embed_or_reuse(embedder, dataset.query, "query", model=find_model(model)),
                    embed_or_reuse(embedder, dataset.gallery, "gallery", model=find_model(model)),
                ]
            )
            people, cameras = (np.array([getattr(crop, key) for crop in crops]) for key in ("identity", "camera"))
            first = np.isin(people, np.unique(people[people > 0])[::2])
            second = (people > 0) & ~first
            fitted = (vectors[first], people[first], cameras[first])
            calibrations[f"{name}, labelled"] = choose_thresholds(score_pairs(*fitted), name, FALSE_ACCEPT_RATE)
            pairs = score_tracks(as_tracks(*fitted)).histograms()
            calibrations[f"{name}, without labels"] = choose_thresholds(pairs, name, FALSE_ACCEPT_RATE)
            galleries[name] = score_tracks(as_tracks(vectors[second], people[second], cameras[second]))
        for measured, calibration in calibrations.items():
            for name, scores in galleries.items():
                shift = measure_score_shift(scores, calibration, name)
                print(
                    f"| {Path(model).name} | {measured} | {name} | {shift.distance:.3f} | "
                    f"{100 * shift.found_rate:.3f} % |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
