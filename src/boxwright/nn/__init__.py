"""Modules that two or more detectors use; plain arguments, no config."""
