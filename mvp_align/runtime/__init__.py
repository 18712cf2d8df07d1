"""What any program needs: whole files, signals, several processes, libraries kept quiet."""
