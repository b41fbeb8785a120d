"""Files of many records: `tar` (with `tar_members`), `tfrecord` (with `record_file`), and `parquet`.

`index` finds each record of a shard, `counts` finds how many there are, and `mapped_files` reads bytes in the graph.
"""
