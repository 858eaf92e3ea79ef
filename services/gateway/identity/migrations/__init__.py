"""Steps of schema `gateway`."""
