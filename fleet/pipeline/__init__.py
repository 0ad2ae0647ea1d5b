"""From rows to a release: a folder with data, a training function and `pipeline.toml` is run step by step."""
