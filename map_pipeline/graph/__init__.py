"""Third-party networks as data: a list of nodes, and the executor that runs them."""
