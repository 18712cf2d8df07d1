"""One file a job, read top to bottom."""
