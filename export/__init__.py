"""From a checkpoint to an artifact, and the proof that both give the same embeddings."""

if __name__ != "bot_deploy.export":  # this folder on sys.path under its own name would be a second copy of every class
    raise ImportError("import bot_deploy.export, not export")
