"""The type checker of the tests: beartype, an int passing for a float as everywhere in Python (PEP 484)."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
