"""What is measured: sets made, scored and answered, and turned into metric rows."""
