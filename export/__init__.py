"""From a checkpoint to an artifact, and the proof that both give the same embeddings."""
