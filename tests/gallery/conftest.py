"""Each kind of store, and a folder of crops."""

from helpers.galleries import address, crops, embedder, kind, model, place

__all__ = ["address", "crops", "embedder", "kind", "model", "place"]
