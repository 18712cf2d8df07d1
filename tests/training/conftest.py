from bench import bench, losses

__all__ = ["bench", "losses"]  # fixtures
