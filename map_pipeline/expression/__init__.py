"""The expression people see: shapes, warp, painting, and the networks that classify it."""
