"""What a run leaves behind: its folder, and tables, pages and trackers made from the files in
it."""
