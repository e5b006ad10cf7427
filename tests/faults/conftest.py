"""What is run by hand; pytest, which imports every module for its doctests, leaves it alone."""

collect_ignore_glob = ["*.py"]
