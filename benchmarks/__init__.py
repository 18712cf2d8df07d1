"""Timings side by side with what people use otherwise: `python -m benchmarks.scoring`, `python -m
benchmarks.training`."""
