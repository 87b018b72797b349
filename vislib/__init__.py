"""From web documents to image conversations: the thin library under the notebooks."""

__version__ = "0.1.0"
