"""An .npz file with the arrays x (n, *image) and y (n,), read as a whole; .npy and .safetensors are read in parts."""

import zipfile
import zlib
from functools import partial
from pathlib import Path

import numpy as np

from plica.data.arrays import ArraySource
from plica.utils.files import hash_file
from plica.utils.limits import check_memory, check_npz
from plica.utils.messages import one_line

HOW = "write it with numpy.savez(file, x=pixels, y=labels)"


def open_npz(spec: str, allow_out_of_range: bool = False) -> ArraySource:
    """The arrays of the file, in memory. Pickled objects are refused, since loading one can run code.

    Raises:
        ValueError: the file is broken, has no such arrays, or claims more than fits into memory; one sentence.
    """
    file = Path(spec)
    try:
        if zipfile.is_zipfile(file):
            check_npz(file)
        with file.open("rb") as stream:  # opened here, since numpy leaves a broken archive open
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError(f"{file} is a single array; {HOW}.")
            missing = [name for name in ("x", "y") if name not in archive.files]
            if missing:
                names = ", ".join(archive.files) or "none"
                raise ValueError(f"{file} has no array {' and no array '.join(missing)} (its arrays: {names}); {HOW}.")
            with zipfile.ZipFile(file) as members:
                check_memory(members.getinfo("x.npy").file_size // 4, file)
            x, y = archive["x"], archive["y"]
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file} cannot be read as an .npz file ({one_line(error)}); {HOW}.") from error
    except ValueError as error:
        if "pickle" not in str(error):
            raise
        raise ValueError(f"{file} is not an .npz file of plain numbers (Python objects are refused); {HOW}.") from error
    return ArraySource(str(file), x, y, allow_out_of_range, partial(hash_file, file))
