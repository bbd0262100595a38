"""A trained detector outside of training: exported files, the runtimes that run them, and proof that they are equal."""
