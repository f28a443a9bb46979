"""From crops to a checkpoint: the trainer."""

if __name__ != "bot_deploy.train":  # this folder on sys.path under its own name would be a second copy of every class
    raise ImportError("import bot_deploy.train, not train")
