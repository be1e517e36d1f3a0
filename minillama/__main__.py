"""``python -m minillama``."""

from minillama.apps.cli import main

main()
