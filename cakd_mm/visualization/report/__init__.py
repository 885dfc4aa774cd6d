"""report.html: runs, or a table of runs, as a page that opens without a network."""
