"""The command line `map-protect`: one module per command, and what they share."""
