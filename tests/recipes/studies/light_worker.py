"""`recipes.studies.worker` with the light kind of cells."""

import sys
from pathlib import Path

from recipes.studies import worker
from tests.recipes.studies import light

if __name__ == "__main__":
    light.register()
    sys.exit(worker.main(Path(sys.argv[1])))
