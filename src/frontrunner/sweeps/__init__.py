"""Many runs from one command: planned, frozen, launched, watched and taken up again."""
