"""The parquet files of a run: samples, and the proofs of lower bounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from plica.core.status import Status
from plica.runs.check.common import ADVICE, BrokenRunError, check_file, parsed_notes, printable
from plica.runs.schema import CERTIFIED, CONSTANT, LEAVES, MEASURED, NOTES, TARGET_CLASS, arrow_schema, names
from plica.utils.messages import few, one_line, shown

KEYS = ("id", "success", "distance")  # columns that every part has


def read_samples(file: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The samples of a part.

    Args:
        file: the part.
        columns: those of MEASURED, TARGET_CLASS and CERTIFIED of the schema that are needed; if not given, all that the
            file has.

    Raises:
        ValueError: the file is broken, or a column is missing, of another type or without a value in some row.
    """
    found = _parquet_schema(file)
    missing = [name for name in columns or KEYS if name not in found.names]
    if missing:
        raise BrokenRunError(f"{file} has no column {missing[0]} (it has {few(found.names)}); {ADVICE}.")
    known = (*MEASURED, TARGET_CLASS, *CERTIFIED)
    table = _read_table(file, arrow_schema(c for c in known if c.name in (found.names if columns is None else columns)))
    if "status" in table.column_names:
        unknown = [status for status in table["status"].unique().to_pylist() if status not in Status.__members__]
        if unknown:
            raise BrokenRunError(f"{file} has the status {shown(unknown[0])}, which is not one of plica's; {ADVICE}.")
    return table


def read_leaves(file: Path) -> pa.Table:
    """The proofs of the lower bounds of a part, without rows if there is no file.

    Raises:
        ValueError: the file is broken, or a column is missing, of another type or without a value in some row.
    """
    schema = arrow_schema(LEAVES)
    if not file.exists():
        return schema.empty_table()
    missing = [name for name in schema.names if name not in _parquet_schema(file).names]
    if missing:
        raise BrokenRunError(f"{file} has no column {missing[0]}; {ADVICE}.")
    return _read_table(file, schema)


def _read_table(file: Path, schema: pa.Schema) -> pa.Table:
    """These columns of a table, of these types."""
    found = _parquet_schema(file)
    for field in schema:
        if found.names.count(field.name) > 1 or found.field(field.name).type != field.type:
            seen = ", ".join(str(other.type) for other in found if other.name == field.name)
            raise BrokenRunError(f"The column {field.name} of {file} is {seen}, not {field.type}; {ADVICE}.")
    try:
        table = pq.ParquetFile(file.absolute()).read(schema.names)
    except (OSError, pa.ArrowException) as error:
        raise BrokenRunError(f"{file} cannot be read ({one_line(error)}); {ADVICE}.") from error
    for name in schema.names:
        if table[name].null_count:
            raise BrokenRunError(
                f"The column {name} of {file} has no value in {table[name].null_count} rows; {ADVICE}."
            )
    return table


def read_constants(file: Path) -> dict[str, Any] | None:
    """The constant columns of a part's first row; None where it has no rows.

    Raises:
        ValueError: the file is broken.
    """
    kept = [name for name in names(CONSTANT) if name in _parquet_schema(file).names]  # old runs lack some
    try:
        rows = pq.ParquetFile(file.absolute()).read(kept).slice(0, 1).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise BrokenRunError(f"{file} cannot be read ({one_line(error)}); {ADVICE}.") from error
    return printable(rows[0]) if rows else None


def count_rows(file: Path) -> int:
    """Rows of a part. Raises ValueError where the file is broken."""
    _parquet_schema(file)
    return pq.read_metadata(file.absolute()).num_rows


def read_notes(file: Path) -> list[str]:
    """The notes in the schema of a part. Raises ValueError where the file is broken."""
    content = (_parquet_schema(file).metadata or {}).get(NOTES, b"[]")
    notes = parsed_notes(file, content)
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise BrokenRunError(f"The notes of {file} are not a list of sentences; {ADVICE}.")
    return notes


def _parquet_schema(file: Path) -> pa.Schema:
    """Read by its absolute path, as everywhere here: pyarrow takes a colon in a relative one for an address."""
    check_file(file)
    try:
        return pq.read_schema(file.absolute())
    except (OSError, pa.ArrowException, ValueError) as error:
        raise BrokenRunError(f"{file} cannot be read ({one_line(error)}); {ADVICE}.") from error
