"""Networks to train and wrappers that make a network depend on a preference."""
