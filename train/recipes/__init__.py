"""Recipes as readable files; every key is a field of `Recipe`."""
