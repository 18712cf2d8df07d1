"""Answers that a model, or a server, writes to the questions of a set; the chat client."""
