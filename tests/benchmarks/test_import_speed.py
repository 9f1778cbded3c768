"""`import sevref` in a fresh interpreter, against importing the library's modules that it cannot do without."""

import subprocess
import sys
from typing import Any

OURS = "import sevref"
RAW = (
    "from cryptography.hazmat.primitives.asymmetric import ec\n"
    "from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes"
)


def seconds(statement: str) -> float:
    code = f"from time import process_time\nstart = process_time()\n{statement}\nprint(process_time() - start)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def test_import_speed(ratio: Any) -> None:
    for statement in (OURS, RAW):
        seconds(statement)  # the first time compiles
    times = [(seconds(OURS), seconds(RAW)) for _ in range(11)]
    ratio.record("import sevref", *map(min, zip(*times, strict=True)), goal=1.3)


def test_import_loads_nothing_heavy() -> None:
    heavy = ["numpy", "pandas", "matplotlib", "IPython", "ipywidgets", "cryptography.x509", "cffi", "unittest"]
    code = f"import sys, sevref; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert found.strip() == "[]"
