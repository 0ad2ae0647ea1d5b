"""Rows that devices captured: asked for, checked, kept for a time, and exported."""
