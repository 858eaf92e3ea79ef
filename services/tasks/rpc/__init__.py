"""The gRPC faces: `tasks` for those who want work done, `workers` for those who do it."""
