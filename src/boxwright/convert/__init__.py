"""Checkpoints of other libraries: one key table a family, read without running anything in the file."""
