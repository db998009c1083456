"""Methods that learn a front by gradient."""
