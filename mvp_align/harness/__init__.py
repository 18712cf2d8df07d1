"""OPA in the tools that people already use: lm-evaluation-harness and Inspect."""
