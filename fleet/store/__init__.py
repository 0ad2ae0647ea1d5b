"""The controller's record of everything; the only package that knows SQL."""
