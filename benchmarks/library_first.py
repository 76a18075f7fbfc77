"""Importing this puts libraries before the files of this folder: `datasets.py` here is no library."""

from __future__ import annotations

import sys

sys.path.append(sys.path.pop(0))
