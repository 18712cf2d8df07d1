"""Metrics as pure functions over scores and labels."""
