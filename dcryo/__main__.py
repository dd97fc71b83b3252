"""``python -m dcryo``: the same as the command ``dcryo``."""

import sys

from dcryo.cli.main import main

sys.exit(main())
