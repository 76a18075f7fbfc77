"""Import this to find installed libraries before the files of this folder, such as `datasets.py`."""

from __future__ import annotations

import sys

sys.path.append(sys.path.pop(0))
