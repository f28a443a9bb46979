"""Each kind of index, and a folder of crops."""

from helpers.galleries import address, crops, embedder, kind, model, place

__all__ = ["address", "crops", "embedder", "kind", "model", "place"]
