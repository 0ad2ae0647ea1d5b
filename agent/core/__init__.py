"""Decisions, as pure functions over data: no clock, disk, network, thread or randomness."""
