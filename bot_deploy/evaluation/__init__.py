"""How well a model ranks a benchmark: CMC, mAP and mINP, k-reciprocal re-ranking, and the embedding cache."""
