"""Ranges that the rules name: ``prefill``, ``decode`` and its steps, and those of ``--stage`` and ``--step``."""

from __future__ import annotations

from dsprof.rules.engines._engine import Engine

ENGINE = Engine("plain", "prefill and decode ranges")
