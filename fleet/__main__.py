"""`python -m fleet` is `fleet`."""

from fleet.cli.main import main

main()
