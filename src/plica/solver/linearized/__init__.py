"""SQP in which only the margin is linearised and the distance is kept whole, for many rows at once."""
