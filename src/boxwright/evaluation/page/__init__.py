"""report.html: what a run came to, on one page that needs no network."""
