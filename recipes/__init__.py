"""One file per job, read top to bottom."""
