"""`python -m map_pipeline` is `map-protect`."""

import sys

from map_pipeline.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
