"""Records in: read, check and split preference pairs, and say what the model is shown of them."""
