"""What is run by hand; pytest, which imports every module for its doctests, leaves it alone."""

collect_ignore = ["pythae_side.py", "vs_pythae.py", "ingest", "train", "encode"]
