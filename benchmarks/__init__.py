"""Every claim about speed or quality, measured: ours and the peer in turn, in one process, with their ratio."""
