"""Read, check and split preference pairs, and define what the model is shown of them."""
