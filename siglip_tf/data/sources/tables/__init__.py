"""Tables of captions as `rows`: `reading` takes JSON Lines, CSV, TSV, and Parquet, `json_documents` JSON documents, and
`columns` knows the names that people give to columns."""
