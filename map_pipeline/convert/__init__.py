"""Turns published network files into checkpoints: `python -m map_pipeline.convert --help`."""
