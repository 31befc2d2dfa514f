"""The score network: its U-Net, what conditions it, and deterministic DDIM in both directions."""
