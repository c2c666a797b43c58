"""The Storage SCP: from the socket to the journal. Uploads take the same path."""
