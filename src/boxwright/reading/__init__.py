"""Files from elsewhere: looked at before anything is built, so that none can run code or take all memory."""
