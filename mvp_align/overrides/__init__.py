"""Process the command line before it becomes a config: sweeps, lists, settings without effect."""
