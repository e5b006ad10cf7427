"""Fitted preprocessing: rows to `values` and `observed`, and back to original types and units."""

from pipeline.features.rows import Features as Features
from pipeline.features.transforms import Feature as Feature
