"""The controller, its store and API, and the operator's command line."""
