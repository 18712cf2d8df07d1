"""Judges that score answers, and the rules that turn their scores into labels.

A judge is a model behind an OpenAI-compatible server, or MiniLM similarity computed locally.
"""
