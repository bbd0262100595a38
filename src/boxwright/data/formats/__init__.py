"""Annotation formats: VOC, COCO, LVIS, Cityscapes, YOLO and DOTA, CVAT folders as records."""
