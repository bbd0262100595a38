"""Files in, (image, GroundTruth) out."""
