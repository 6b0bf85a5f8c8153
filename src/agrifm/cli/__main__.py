"""``python -m agrifm.cli``."""

from agrifm.cli.shell import main

main()
