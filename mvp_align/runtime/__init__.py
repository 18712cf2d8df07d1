"""Basics for any program: atomic files, signals, processes, and quiet libraries."""
