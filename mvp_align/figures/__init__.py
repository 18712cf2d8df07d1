"""Figures from plain values: dots with intervals, bars, curves, a map of the world.

Nothing here knows a run or its files.
"""
