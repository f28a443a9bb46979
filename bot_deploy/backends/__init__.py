"""One small file for each runtime: `open_model(path, device) -> (contract, run, name)`."""
