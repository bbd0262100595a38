"""A detector over HTTP."""
