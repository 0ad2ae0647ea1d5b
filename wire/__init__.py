"""What the programs must agree on: it crosses the wire, or defines the meaning of what does."""
