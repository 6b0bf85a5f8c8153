"""Description of a scene by the user: its sources, and the grid, area and period that are wanted of it."""

from agrifm.scenes.description.area import read_area
from agrifm.scenes.description.model import Description, Source
from agrifm.scenes.description.reading import SCENE_KEYS, SOURCE_KEYS, describe, load_description

__all__ = ["SCENE_KEYS", "SOURCE_KEYS", "Description", "Source", "describe", "load_description", "read_area"]
