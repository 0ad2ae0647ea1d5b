"""From rows to a release, step by step."""
