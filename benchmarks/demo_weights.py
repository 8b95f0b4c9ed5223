"""The weights of `make demo-train`, in half precision, to where the demonstration reads them.

python benchmarks/demo_weights.py build/demo-train
"""

import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

import plica.demo

for name, way in {"robust": "radius-union", "undefended": "standard"}.items():
    file = Path(str(plica.demo.__file__)).with_name(f"{name}.safetensors")
    weights = load_file(Path(sys.argv[1]) / f"{way}-0.safetensors")
    save_file({key: value.half() for key, value in weights.items()}, file)
    print(f"{file}: {file.stat().st_size / 1e3:.0f} kB")
