"""Metrics as values and pure functions over scores and labels; no model, no profile."""
