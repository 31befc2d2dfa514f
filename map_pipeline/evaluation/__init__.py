"""How well protection works on recognisers it never saw: `python -m map_pipeline.evaluation`."""
