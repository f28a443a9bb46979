"""Scores of a model on a benchmark: CMC, mAP, mINP, k-reciprocal re-ranking, and the embedding cache."""
