"""One thin file per verb; torch is imported only inside verbs."""
