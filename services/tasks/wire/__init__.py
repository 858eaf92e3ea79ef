"""Model ↔ contract: pure functions, one a message. What the bus is told is worded here too."""
