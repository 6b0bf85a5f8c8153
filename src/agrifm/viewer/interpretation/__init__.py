"""Interpreting a sample of an area design: its file, the images around its points, and the estimate at the end."""
