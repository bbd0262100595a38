"""Generate the synthetic shapes data set."""
def shapes() -> None:
    """Generate the synthetic shapes data set."""
