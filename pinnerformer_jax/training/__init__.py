"""State, step, loop, checkpoints."""
