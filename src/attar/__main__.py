"""`python -m attar`, also under torchrun."""

from attar.cli import main

main()
