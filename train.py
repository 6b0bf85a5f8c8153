"""Train a model, with the original's command line; see docs/from-the-original.md."""

import sys

from agrifm.compat.commands import train

if __name__ == "__main__":
    sys.exit(train())
