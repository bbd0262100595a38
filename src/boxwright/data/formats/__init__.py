"""Annotation formats: VOC, COCO, YOLO and CVAT folders as records."""
