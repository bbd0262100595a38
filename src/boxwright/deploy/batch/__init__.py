"""Detections of any number of images on a Ray cluster."""
