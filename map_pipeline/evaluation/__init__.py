"""How well protection works, against what, and at what cost: `map-protect evaluate`.

Data (`data`) go through the resumable loop (`runner`) into rows (`results`); whatever is told about
them (`summary`, `plots`, `html`, `readme`) is computed from those rows.
"""
