"""Write a class map of every test chip, with the original's command line; see docs/from-the-original.md."""

import sys

from agrifm.compat.commands import inference

if __name__ == "__main__":
    sys.exit(inference())
