"""Helpers that import nothing of plica."""
