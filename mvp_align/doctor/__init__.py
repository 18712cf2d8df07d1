"""Is this machine ready? Checks of what runs stand on, from Python to the hub."""
