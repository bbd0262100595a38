"""Pure tensor functions: geometry, coding, assignment, losses, selection. No modules, no config."""
