"""Runs read for conclusions: who is compared, pairs and intervals, patterns of perturbations."""
