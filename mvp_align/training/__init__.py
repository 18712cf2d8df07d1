"""Trainers built on TRL, their callbacks, and the checks before the first step."""
