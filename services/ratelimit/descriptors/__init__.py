"""Envoy's descriptors over the same counters as the mesh's own limits: what is asked, answered and counted for them."""
