"""Stub."""

TIMEOUT_S = 300
ATTACKS = {}
