"""Where a point may lie: bounds, fixed features, units, levels, the grid of half precision."""
