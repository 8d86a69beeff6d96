"""Reports that a tool, a user or another version of nsys changed by SQL; see `damage`."""

from __future__ import annotations

import mutations
from fuzz.case import Kind
from fuzz.kinds.damage import choose, run

KIND = Kind("sql", 7000, choose(mutations.SQL), run)
