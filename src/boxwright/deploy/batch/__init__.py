"""Batch inference on any number of images with Ray."""
