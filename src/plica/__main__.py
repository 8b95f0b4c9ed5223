"""`python -m plica`, the same as the command `plica`."""

import sys

from plica.cli import main

sys.exit(main())
