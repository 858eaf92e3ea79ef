"""May this request pass, and what is left of its limits?

Owns the rules and the counters. Calls Redis, and nobody else; called by the gateway, over a lane or method by method.
Without Redis it answers from memory, with this instance's share of every limit, and says so. Read `model` first (what a
limit is and how counters move), then `operations` (who decides, Redis or memory), then `store` (one script per frame).
"""
