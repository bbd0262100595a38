"""Check a data set before training."""
def inspect() -> None:
    """Check a data set before training: every bad box with its file and line."""
