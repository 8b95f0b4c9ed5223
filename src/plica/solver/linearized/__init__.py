"""SQP that linearises only the margin and uses the exact distance, for many rows at once."""
