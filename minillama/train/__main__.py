"""``python -m minillama.train --preset nano-65b``, also under torchrun."""

import sys

from minillama.apps.cli import main

main(["train", *sys.argv[1:]])
