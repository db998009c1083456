"""``python -m frontrunner`` is the command ``frontrunner``."""

import sys

from frontrunner.cli import main

sys.exit(main())
