"""Programs that show what bot_deploy does: the live demo and the quickstart."""

if __name__ != "bot_deploy.demos":  # `import demos` would load every class a second time
    raise ImportError("import bot_deploy.demos, not demos")
