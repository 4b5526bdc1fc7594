"""``python -m prunelab``: the same as the command ``prunelab``."""

from prunelab.cli.run import main

main()
