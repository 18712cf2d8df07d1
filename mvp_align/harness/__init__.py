"""OPA in other evaluation tools: lm-evaluation-harness and Inspect."""
