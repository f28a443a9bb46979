"""The indexes of tests/gallery, and a folder of crops."""

from helpers.galleries import address, crops, embedder, kind, model

__all__ = ["address", "crops", "embedder", "kind", "model"]
