"""Maps and scenes in a browser: a small local server and one page."""
