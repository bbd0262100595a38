"""Files of weights from anywhere, read without running anything in them."""
