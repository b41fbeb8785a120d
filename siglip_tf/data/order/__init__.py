"""Which record comes when: order, shares, mixture, position, and broken records.

The words of this folder:

- record: an image with its captions, the unit that a source counts and reads.
- pair: a record's image with one of its captions, as training uses it.
- component: one of the sources of a mixture.
- stream: an equal part of every global batch with its own pass through the data. It is like a shard index of `grain`
  or `tf.data.Dataset.shard`, but it stays the same when the number of workers changes. A worker reads one or several.
- slot: a place in a stream's endless sequence, numbered from 0. The order maps (stream, slot) to a record.
- run: neighboring records that are read together, such as a remote tar shard (webdataset's shard).
- piece: the part of a run that belongs to one window.
- window: the runs that are in memory together and shuffled with each other (the shuffle buffer of tf.data).
- position: how many slots each stream has passed. It restores the exact sequence after an interruption.
- frontier: the first slot of a stream that has neither arrived in a batch nor been skipped as broken.

The permutation is this package's own. `tf.random.experimental.index_shuffle` could shuffle an epoch, too, but a new
permutation would change the order in runs that began with the old one.
"""
