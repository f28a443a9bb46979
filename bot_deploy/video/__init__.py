"""Frames to people on them: sources of frames, person detectors, the tracker, the embedding of a track."""
