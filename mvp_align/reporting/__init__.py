"""Tables, reports and charts from the files of finished runs."""
