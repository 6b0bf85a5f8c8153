"""Finding the files of a scene, and turning them into frames."""
