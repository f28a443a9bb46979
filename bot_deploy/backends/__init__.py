"""One small file for each runtime, with `open_model(path, device, threads) -> Embedder`; see choices.BACKENDS."""
