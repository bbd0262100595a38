"""Files from untrusted sources: checked before anything is built, so that none can run code or exhaust memory."""
