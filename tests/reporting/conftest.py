from finished_rows import rows

__all__ = ["rows"]  # a fixture
