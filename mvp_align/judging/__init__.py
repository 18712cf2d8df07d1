"""Judges: models behind OpenAI-compatible servers that score answers, and the rules that make
labels of their scores."""
