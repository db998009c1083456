"""Merging: a base and experts -> one model, or a front of models, one for each preference."""
