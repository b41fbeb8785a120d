"""Workers and replicas share every global batch without rest or overlap."""

import pytest
import tensorflow as tf

from siglip_tf.data.order.shares import share_of


def test_one_worker_alone_takes_whole_batches():
    share = share_of(None, 12, None)
    assert (share.worker, share.all_streams, share.streams, share.batches, share.size) == (0, 1, range(1), 1, 12)


@pytest.mark.parametrize(("workers", "replicas", "streams"), [(1, 4, None), (2, 2, None), (2, 4, 4), (3, 6, 3)])
def test_shares_make_up_the_batch(workers, replicas, streams):
    shares = [share_of(tf.distribute.InputContext(workers, i, replicas), 24, streams) for i in range(workers)]
    assert sum(share.batches * share.size for share in shares) == 24
    assert sum(share.batches for share in shares) == replicas
    assert [stream for share in shares for stream in share.streams] == list(range(streams or workers))


@pytest.mark.parametrize(
    ("workers", "replicas", "batch", "streams", "message"),
    [
        (2, 2, 6, 3, "3 streams cannot be shared by 2 workers"),
        (1, 3, 8, None, "of the 1 streams and of the 3 replicas. Received: 8"),
        (1, 1, 9, 2, "of the 2 streams and of the 1 replicas. Received: 9"),
    ],
)
def test_what_does_not_divide_is_refused(workers, replicas, batch, streams, message):
    with pytest.raises(ValueError, match=message):
        share_of(tf.distribute.InputContext(workers, 0, replicas), batch, streams)
