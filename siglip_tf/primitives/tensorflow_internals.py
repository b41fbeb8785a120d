"""The parts of TensorFlow that have no public name, each with why it is needed and what would replace it."""

from __future__ import annotations

from tensorflow.python.eager import cancellation


class Cancellation:
    """Lets another thread end what TensorFlow executes inside `with`.

    Why: a step that waits in C++ for a batch hears neither Python's exceptions nor signals. Functions that are called
    inside raise `tf.errors.CancelledError` once `cancel` was called.

    Public call that would replace it: a timeout of `tf.data` iterators, or `tf.config` for cancelling a function.
    There is none in TensorFlow 2.21.
    """

    def __init__(self):
        self._manager = cancellation.CancellationManager()
        self._context = cancellation.CancellationManagerContext(self._manager)

    def __enter__(self) -> Cancellation:
        self._context.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._context.__exit__(*error)

    def cancel(self) -> None:
        """Ends what runs, from any thread."""
        self._manager.start_cancel()
