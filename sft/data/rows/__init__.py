"""One row: a record of any dialect becomes a Row, or an error that names its line."""
