"""Why AP is low."""
