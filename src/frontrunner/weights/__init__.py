"""Checkpoints as named tensors that are read one at a time, merged, and written shard by shard."""
