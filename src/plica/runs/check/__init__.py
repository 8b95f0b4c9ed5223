"""Reads the files of a run and checks them against `schema`. A run may come from anybody, cut off or changed on the
way: what is not as the schema has it is one sentence here, and nothing else of plica has to expect it.
"""
