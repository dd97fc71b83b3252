"""``python -m dcryo``: the same as the command ``dcryo``."""

from dcryo.cli.main import entry

entry()
