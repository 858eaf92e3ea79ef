"""The faces: gRPC for the mesh, and what Envoy and its operators speak."""
