"""The command ``stablegrad``: one module a command, no logic of its own."""
