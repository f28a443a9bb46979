"""Converts state dicts of other toolkits to checkpoints of bot_deploy."""
