"""A double of an object store for the tests: `gs://` addresses in a dictionary, behind `tf.io.gfile`.

There are no folders, a rename is a copy and a deletion of every object under it, objects appear when they are closed,
every call is counted, and the store can fail at the nth call of a kind.
"""

import collections
import contextlib
import pathlib
import types

import tensorflow as tf

_NAMES = ("copy", "exists", "glob", "isdir", "listdir", "makedirs", "remove", "rename", "rmtree", "stat", "GFile")


class ObjectStore:
    """The store: `objects` holds the content by address, `calls` counts, `fail_at` lets the nth call of a kind fail."""

    def __init__(self):
        self.objects: dict[str, bytes] = {}
        self.calls = collections.Counter()
        self.fail_at: dict[str, int] = {}
        self.seen: list[set[str]] = []  # what a reader would have found after each change

    def install(self, monkeypatch) -> "ObjectStore":
        """Takes `gs://` addresses out of the hands of `tf.io.gfile`."""
        for name in _NAMES:
            monkeypatch.setattr(tf.io.gfile, name, self._routed(name, getattr(tf.io.gfile, name)))
        return self

    def _routed(self, name, real):
        def call(path, *args, **kwargs):
            here = [str(path).startswith("gs://"), *(str(a).startswith("gs://") for a in args[:1])]
            return getattr(self, name)(str(path), *args, **kwargs) if any(here) else real(path, *args, **kwargs)

        return call

    def count(self, kind):
        self.calls[kind] += 1
        if self.fail_at.get(kind) == self.calls[kind]:
            raise tf.errors.UnavailableError(None, None, f"the store failed at {kind} number {self.calls[kind]}")

    def put(self, path, content):
        self.count("put")
        self.objects[path] = content
        self.seen.append(set(self.objects))

    def delete(self, path):
        del self.objects[path]
        self.seen.append(set(self.objects))

    def under(self, path):
        return sorted(name for name in self.objects if name.startswith(path.rstrip("/") + "/"))

    def exists(self, path):
        self.count("exists")
        return path in self.objects or bool(self.under(path))

    def isdir(self, path):
        self.count("isdir")
        return bool(self.under(path))

    def listdir(self, path):
        self.count("listdir")
        start = len(path.rstrip("/")) + 1
        rests = [name[start:] for name in self.under(path)]
        return sorted({rest.split("/")[0] + ("/" if "/" in rest else "") for rest in rests})

    def glob(self, pattern):
        raise NotImplementedError(pattern)

    def makedirs(self, path):
        self.count("makedirs")

    def stat(self, path):
        self.count("stat")
        return types.SimpleNamespace(length=len(self._get(path)))

    def remove(self, path):
        self.count("remove")
        self._get(path)
        self.delete(path)

    def rmtree(self, path):
        for name in self.under(path):
            self.count("remove")
            self.delete(name)

    def copy(self, source, target, overwrite=False):
        content = self._get(source) if source.startswith("gs://") else pathlib.Path(source).read_bytes()
        if target.startswith("gs://"):
            self.put(target, content)
        else:
            pathlib.Path(target).write_bytes(content)

    def rename(self, source, target, overwrite=False):
        self.count("rename")
        names = [source] if source in self.objects else self.under(source)
        for name in names:
            self.put(target + name[len(source) :], self.objects[name])
        for name in names:
            self.delete(name)

    def _get(self, path):
        if path not in self.objects:
            raise tf.errors.NotFoundError(None, None, f"no object {path}")
        return self.objects[path]

    @contextlib.contextmanager
    def GFile(self, path, mode="r"):  # noqa: N802 - TensorFlow's name
        if "r" in mode:
            self.count("get")
            content = self._get(path)
            yield types.SimpleNamespace(
                read=lambda n=-1: (content if n < 0 else content[:n]) if "b" in mode else content.decode()
            )
            return
        parts = [self.objects.get(path, b"")] if "a" in mode else []
        try:
            yield types.SimpleNamespace(write=lambda p: parts.append(p.encode() if isinstance(p, str) else p))
        finally:  # as TensorFlow does: closing the file sends what there is
            self.put(path, b"".join(parts))
