"""The attacks: each takes a Task and returns what it found; registry.py names them."""
