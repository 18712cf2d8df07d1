"""TRL's trainers with our forward pass, their callbacks, and resuming."""
