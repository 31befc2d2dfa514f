"""Making the checkpoint: training the score network, and the built-in targets."""
