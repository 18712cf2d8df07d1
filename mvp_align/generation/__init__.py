"""Generation of answers by a local model or a server, and the chat client."""
