"""The comparisons, one a file. A file here that declares a `Case` is part of `sosm bench`."""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
