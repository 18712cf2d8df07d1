"""What a run leaves on the disk: its folder, the files in it, checkpoints, the lock."""
