"""How well a protection works on recognisers it was not tuned on: `python -m map_pipeline.evaluation`."""
