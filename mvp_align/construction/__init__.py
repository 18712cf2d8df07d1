"""A population's own pairs: from a survey and conversations to records in the benchmark's schema.

`build` has a chat model write questions with two answers each; `score_pairs` makes pairs of scores
that people gave. What comes of either is a folder whose `records.jsonl` is read as any other file
of that schema.
"""
