"""The files of finished runs as tables, pages and charts."""
