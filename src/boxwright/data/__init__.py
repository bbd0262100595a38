"""Files in, (image, Truth) out."""
