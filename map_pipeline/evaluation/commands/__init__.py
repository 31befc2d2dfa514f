"""Subcommands of `map-protect` that measure; each module adds one to the parser and runs it."""
