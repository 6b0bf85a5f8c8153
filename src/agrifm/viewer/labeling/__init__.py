"""Labels that a person draws in the viewer, and what is made of them."""
