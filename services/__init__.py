"""The five services. Each owns its rooms and meets the others only on the wire."""
