"""The attacks: each takes an AttackInput and returns an AttackOutput; registry.py names them."""
