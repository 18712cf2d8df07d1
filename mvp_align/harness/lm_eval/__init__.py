"""`mvp_opa`, a task of lm-evaluation-harness. `python -m mvp_align.harness.lm_eval` prints the
folder for --include_path."""
