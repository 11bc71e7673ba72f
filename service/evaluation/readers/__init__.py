"""Readers of data sets: folders, CSV, COCO and Pascal VOC."""
