"""Score a checkpoint on the test split, with the original's command line; see docs/from-the-original.md."""

import sys

from agrifm.compat.commands import test

if __name__ == "__main__":
    sys.exit(test())
