"""What every attack shares: formulations, losses, the counted model, best points, the judge and the result."""
