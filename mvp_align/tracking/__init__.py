"""What a run sends to W&B, TensorBoard or trackio."""
