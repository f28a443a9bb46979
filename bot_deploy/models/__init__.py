"""Models by name: the model in the box, the table of networks that can be fetched, and their cache."""
