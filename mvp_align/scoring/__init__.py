"""Log-probabilities from token ids: the only room that runs a model over pairs."""
