"""Video: sources of frames, person detectors, the person tracker, and tracklets with embeddings."""
