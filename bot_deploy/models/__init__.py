"""Models by name: the built-in model, the table of networks that can be fetched, and their cache."""
