"""(Detections, Truth) in, numbers out."""
