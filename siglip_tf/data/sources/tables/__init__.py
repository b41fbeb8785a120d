"""Tables of captions as `rows`.

`reading` reads JSON Lines, CSV, TSV, and Parquet; `json_documents` reads JSON documents; `columns` lists the common
names of columns.
"""
