"""The parts of footage.py."""
