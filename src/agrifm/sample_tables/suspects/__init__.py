"""Labels that their neighbors among the series contradict, as a table to correct and a picture."""
