"""``python -m neuroshare`` is the command line."""

from neuroshare.cli import main

main()
