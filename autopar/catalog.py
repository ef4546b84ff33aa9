"""Name or path -> document: the shipped catalogue, the user's own, and files."""
