"""Models by name: the table of networks that can be fetched, and the cache where they are kept."""
