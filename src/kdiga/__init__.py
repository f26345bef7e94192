"""kdiga: distil robust image classifiers into small students that stay robust, prove it, and hand over a file to deploy."""

__version__ = "0.1.0"
