"""The child process that loads models and answers inference requests."""
