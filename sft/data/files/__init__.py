"""Files as records: JSONL, a JSON array, CSV, TSV, Parquet, Excel and plain text, with the line of everything."""
