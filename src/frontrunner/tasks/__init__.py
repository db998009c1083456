"""What is traded off: objectives, data with its splits kept apart, and a model to start from."""
