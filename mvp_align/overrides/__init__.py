"""The command line before it is a config: names of runs, sweeps, words, settings without effect."""
