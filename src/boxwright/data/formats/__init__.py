"""Annotation formats: VOC, COCO, LVIS, Cityscapes, YOLO and CVAT folders as records."""
