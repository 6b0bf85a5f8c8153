"""Embeddings: features of every pixel of a scene, as a raster or a table of points."""
