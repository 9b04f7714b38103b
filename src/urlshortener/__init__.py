"""A URL shortener that counts every redirect exactly once, on a laptop and in a cluster."""

from importlib.metadata import version

__version__ = version("urlshortener")
