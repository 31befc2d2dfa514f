"""The identity software sees: recognisers, targets, objectives, and the refinement of one face."""
