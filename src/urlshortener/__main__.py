"""`python -m urlshortener` is `urlshortener`."""

from urlshortener.cli import main

main()
