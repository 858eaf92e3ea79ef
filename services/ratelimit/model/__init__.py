"""What a limit is, how its counter moves, and what a decision says: pure, with time as an argument in integer µs."""
