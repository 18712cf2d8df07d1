"""The bundled sample: synthetic users, questions and answers, and the script that deals them
out."""
