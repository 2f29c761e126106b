"""Compare the behaviour of dora with that of dora-rs."""
