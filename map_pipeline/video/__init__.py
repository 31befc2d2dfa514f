"""Clips: reading and writing them, following people through them, and a change that stays calm."""
