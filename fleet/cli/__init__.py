"""The command `fleet`: one module per group of commands; heavy imports wait until they are needed."""
