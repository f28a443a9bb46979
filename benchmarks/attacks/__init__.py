"""Attacks on the installed product, a file for each kind; `benchmarks/attack.py` runs them."""
