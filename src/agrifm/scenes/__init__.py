"""Rasters of any kind become a Scene; a Scene becomes chips or, in ``maps``, a map."""
