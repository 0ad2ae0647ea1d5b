"""One module per thing outside: the database, the disk, the broker, the runtime child, systemd."""
