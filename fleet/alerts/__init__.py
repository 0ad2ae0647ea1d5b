"""Alerts: what is looked at, what is raised and closed, and who is told."""
