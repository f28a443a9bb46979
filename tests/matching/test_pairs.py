"""Histograms of the scores of pairs, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.random_embeddings import random_embeddings

from bot_deploy.matching import pairs
from bot_deploy.matching.pairs import BINS, PairScores, count_pairs, score_pairs


def test_pairs_against_a_naive_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "_ROWS_AT_ONCE", 7)
    vectors, ids, cams = random_embeddings(6, 3, 2, 0.5)
    ids[:3], ids[9:12] = [-1, -1, -1], [0, 0, 0]  # junk and distractors
    genuine, impostor = np.zeros(BINS, int), np.zeros(BINS, int)
    for i in range(len(ids)):
        for j in range(i + 1, len(ids)):
            if -1 in {ids[i], ids[j]}:
                continue
            bin_ = int((float(vectors[i].astype(np.float64) @ vectors[j]) + 1) / 2 * BINS)
            if ids[i] != ids[j]:
                impostor[bin_] += 1
            elif ids[i] != 0 and cams[i] != cams[j]:
                genuine[bin_] += 1
    scores = score_pairs(vectors, ids, cams)
    assert scores.genuine_counts.sum() == genuine.sum()
    assert scores.impostor_counts.sum() == impostor.sum()
    assert count_pairs(ids, cams) == (genuine.sum(), impostor.sum())
    # Rounding may move a cosine on the edge of a bin to the next one.
    assert np.abs(np.cumsum(scores.genuine_counts) - np.cumsum(genuine)).max() <= 1
    assert np.abs(np.cumsum(scores.impostor_counts) - np.cumsum(impostor)).max() <= 1


def test_equal_vectors_are_in_the_last_bin() -> None:
    scores = score_pairs(np.eye(3, dtype=np.float32)[[0, 0, 1]], [1, 1, 2], [0, 1, 0])
    assert scores.genuine_counts[-1] == 1
    assert scores.impostor_counts[BINS // 2] == 2


def test_error_rates_by_hand() -> None:
    genuine, impostor = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    impostor[[10, 20, 30, 40]] = [5, 3, 1, 1]
    genuine[[30, 40]] = [1, 3]
    accepts, rejects = PairScores(genuine, impostor).error_rates()
    np.testing.assert_allclose(accepts[[0, 10, 11, 20, 21, 30, 31, 40, 41]], [1, 1, 0.5, 0.5, 0.2, 0.2, 0.1, 0.1, 0])
    np.testing.assert_allclose(rejects[[0, 30, 31, 40, 41]], [0, 0, 0.25, 0.25, 1])
