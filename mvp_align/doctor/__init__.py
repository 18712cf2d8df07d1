"""Checks of whether this machine is ready for runs, from Python to the Hub."""
