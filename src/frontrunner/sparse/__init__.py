"""Sparse layers: patterns, least squares on a support, compact storage."""
