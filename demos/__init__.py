"""Things to run and look at."""

if __name__ != "bot_deploy.demos":  # this folder on sys.path under its own name would be a second copy of every class
    raise ImportError("import bot_deploy.demos, not demos")
