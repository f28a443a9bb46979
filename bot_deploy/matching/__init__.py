"""Queries against a gallery: ranking, the verdict on the best match, and the calibration behind the verdict."""
