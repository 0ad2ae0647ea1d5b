"""`python -m agent` is `fleet-agent`."""

from .cli import main

main()
