"""Named, complete run descriptions."""
