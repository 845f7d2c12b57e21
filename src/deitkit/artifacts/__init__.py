"""What is written to disk: a checkpoint for the machine, a bundle for people, never mixed."""
