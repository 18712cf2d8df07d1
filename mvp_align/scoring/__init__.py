"""Token ids in, log-probabilities out: the one place that runs a model over pairs."""
