"""The static site: content, pages, charts, overlays, files."""
