"""The built-in model: a small network that is part of this package; docs/model.md is its card."""

from __future__ import annotations

from pathlib import Path

NAME = "box"
PATH = Path(__file__).with_name("box.onnx")
TERMS = (
    "for research only: it was trained on Market-1501 and other crops that were published for academic research, and "
    "distilled from Intel's person-reidentification-retail-0265 (Apache-2.0)"
)
