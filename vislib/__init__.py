"""From web documents to image conversations: the thin library under the notebooks."""
