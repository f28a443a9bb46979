"""State dicts of other toolkits, turned into checkpoints."""
