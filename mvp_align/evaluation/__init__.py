"""Evaluation: prepare, score and answer sets, and turn the results into metric rows."""
