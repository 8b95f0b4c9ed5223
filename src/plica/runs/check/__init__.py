"""Reads the files of a run and checks them against `schema`. A run may come from anybody and may be damaged or changed:
a file that does not match the schema raises an error of one sentence here, so other code can rely on the schema.
"""
