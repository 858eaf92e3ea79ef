"""Steps of schema `agents`."""
