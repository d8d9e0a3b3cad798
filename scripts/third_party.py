"""Imports that a bare Debian with scripts/packages.txt may lack.

  with third_party.modules("pip install torch numpy"):
    import numpy as np
    import torch

ends the script with one line and exit code 69 where a module is missing.
"""

import contextlib
import pathlib
import sys

ORACLE = "pip install -r scripts/requirements-oracle.txt"


@contextlib.contextmanager
def modules(install: str):
  """`install` is the command that installs what the imports inside need."""
  try:
    yield
  except ModuleNotFoundError as missing:
    script = pathlib.Path(sys.argv[0]).name
    print(f"{script}: the Python module {missing.name} is missing; to install it: {install}",
          file=sys.stderr)
    raise SystemExit(69) from None
