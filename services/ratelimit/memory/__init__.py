"""Counters in this process: the shadow that decides while the store is away, and what is owed to the store then."""

from services.ratelimit.memory.counters import Counters
from services.ratelimit.memory.shadow import MemoryShadow

__all__ = ["Counters", "MemoryShadow"]
