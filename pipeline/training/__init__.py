"""One training: who trains on which row, how rows reach the loop, the loop itself, and how it survives."""
