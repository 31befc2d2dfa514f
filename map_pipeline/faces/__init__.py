"""Finding faces in photos, aligning them, and pasting changes back at full resolution."""
