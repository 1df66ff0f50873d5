"""The compiled part: libkveik and the package's glue, as cffi gives them."""
from typing import Any

lib: Any
ffi: Any
