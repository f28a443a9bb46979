"""Queries against a gallery: the ranking, the verdict on the best match, and the calibration behind the verdict."""
