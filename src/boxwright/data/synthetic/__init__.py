"""Datasets that are drawn, not read."""
