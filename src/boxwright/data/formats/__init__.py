"""Annotation formats: VOC, COCO, LVIS, Cityscapes, YOLO, CVAT and DOTA folders as records."""
