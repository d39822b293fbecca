"""The hot loops. Each op is a folder: its maths and checks in `__init__.py`, the reference in
`naive.py`, and faster backends beside it. Importing this package loads neither Numba nor Triton.
"""

from __future__ import annotations
