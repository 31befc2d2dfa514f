"""How well protection works, against what, and at what cost: `map-protect evaluate`.

Photos (`dataset`) go through the resumable loop (`runner`) into rows (`results`); all tables and
charts (`tables`, `plots`, `report`) are computed from those rows.
"""
