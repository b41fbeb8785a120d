"""Runs `python -m tools.search`."""

import sys

from . import main

sys.exit(main())
