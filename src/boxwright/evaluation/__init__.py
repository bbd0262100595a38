"""(Detections, GroundTruth) in, numbers out."""
