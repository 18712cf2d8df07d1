"""`mvp_opa`, a task for lm-evaluation-harness.

`python -m mvp_align.harness.lm_eval` prints the folder for --include_path.
"""
