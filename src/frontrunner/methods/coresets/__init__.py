"""Training on a part of the data; see docs/methods/coresets.md."""
