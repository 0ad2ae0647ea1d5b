"""What windows of devices say of a model: drift against its baseline, and how right it is."""
