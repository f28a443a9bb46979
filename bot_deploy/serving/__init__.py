"""The HTTP service of `bot serve`: one model and one gallery, for programs in any language."""
