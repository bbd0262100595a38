"""From a checkpoint to a file for another runtime."""
