"""The program on the device: fetches, verifies, tries and serves models, and reports on them."""
