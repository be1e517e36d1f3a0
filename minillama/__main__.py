"""``python -m minillama``."""

from minillama.cli import main

main()
