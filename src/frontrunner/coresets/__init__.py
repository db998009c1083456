"""Which samples to train on, and when to choose again: functions of last-layer gradients."""
