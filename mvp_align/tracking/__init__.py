"""Experiment tracking with W&B, TensorBoard or trackio."""
