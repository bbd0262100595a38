"""Weights from files of any library, read without running code in them, and downloads."""
