"""`python -m cmpd` is `cmpd`."""

from cmpd.cli import main

main()
