"""Which versions of a model are served: new folders are loaded, then old ones are unloaded when their requests end."""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from siglip_tf.export.version_folder import file_sizes, missing, version_numbers
from siglip_tf.serve.errors import RequestError, shown
from siglip_tf.serve.loaded import LoadedModel

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False)
class Version:
    """One version. `state` is LOADING, AVAILABLE, UNLOADING, or END, as TensorFlow Serving names them."""

    number: int
    path: str
    state: str = "LOADING"
    error: str = ""
    model: LoadedModel | None = None
    in_flight: int = 0
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    idle: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)


class ServedModel:
    """The versions of one model.

    Args:
        name: as clients call it.
        base: the folder with the numbered versions, local or in an object store.
        keep: how many of the newest versions are served; None for all.
        load: makes a `LoadedModel` of a version's folder.
    """

    def __init__(self, name: str, base: str, keep: int | None = 1, load: Callable[[str], Any] = LoadedModel):
        self.name, self.base = name, base.rstrip("/")
        self.versions: dict[int, Version] = {}
        self._keep = keep
        self._load = load
        self._seen: dict[int, dict[str, int]] = {}
        self._pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=f"load-{name}")
        self._unloading: set[asyncio.Task] = set()

    @property
    def available(self) -> bool:
        """Whether any version is served."""
        return any(version.state == "AVAILABLE" for version in self.versions.values())

    @contextlib.contextmanager
    def use(self, number: int | None = None) -> Iterator[Version]:
        """A version that stays loaded while it is used: this one, or the newest.

        Raises:
            RequestError: NOT_FOUND, in TensorFlow Serving's words.
        """
        served = {n: version for n, version in self.versions.items() if version.state == "AVAILABLE"}
        wanted = max(served, default=None) if number is None else number
        if wanted not in served:
            raise self.not_found(number)
        version = served[wanted]
        version.in_flight += 1
        try:
            yield version
        finally:
            version.in_flight -= 1
            if not version.in_flight:
                version.idle.set()

    def not_found(self, number: int | None) -> RequestError:
        """The error for a version that is not served."""
        what = f"Latest({self.name})" if number is None else f"Specific({self.name}, {number})"
        return RequestError("NOT_FOUND", f"Servable not found for request: {what}")

    async def poll(self) -> None:
        """Looks at the folders once: loads what is new and whole, then unloads what is too old."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._pool, self._whole_versions)
        except Exception as error:  # a file system that does not answer; the next look may find it again
            _LOG.warning("Model %s: %s cannot be read: %s", self.name, self.base, error)
            return
        wanted: set[int] = set()
        # From the newest down: a version that does not load leaves its place to the next older one.
        for number in sorted(found, reverse=True):
            if self._keep is not None and len(wanted) == self._keep:
                break
            known = self.versions.get(number)
            if known is None or (known.state == "END" and not (known.error and known.sizes == found[number])):
                await self._load_version(number, found[number])
            if self.versions[number].state == "AVAILABLE":
                wanted.add(number)
        for version in list(self.versions.values()):
            if wanted and version.number not in wanted and version.state == "AVAILABLE":
                task = asyncio.create_task(self._unload(version))
                self._unloading.add(task)
                task.add_done_callback(self._unloading.discard)
        for number in [n for n, v in self.versions.items() if v.state == "END" and n not in found]:
            del self.versions[number]

    async def close(self) -> None:
        """Unloads every version."""
        for task in list(self._unloading):
            task.cancel()
        for version in self.versions.values():
            version.state, model, version.model = "END", version.model, None
            if model is not None:
                model.unload()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _whole_versions(self) -> dict[int, dict[str, int]]:
        """Files of each version whose copy is finished.

        Exports list their files. A folder without that list counts once it has been the same for two looks.
        """
        whole, seen = {}, {}
        for number in version_numbers(self.base):
            folder = f"{self.base}/{number}"
            known = self.versions.get(number)
            if known is not None and known.state != "END":
                whole[number] = known.sizes  # what is served is not looked at again
                continue
            sizes = file_sizes(folder)
            seen[number] = sizes
            listed = any(name.endswith("siglip_tf_files.json") for name in sizes)
            try:
                complete = missing(folder, sizes) is None if listed else self._seen.get(number) == sizes
            except ValueError:
                complete = self._seen.get(number) == sizes
            if complete:
                whole[number] = sizes
        self._seen = seen
        return whole

    async def _load_version(self, number: int, sizes: dict[str, int]) -> None:
        version = Version(number, f"{self.base}/{number}", sizes=sizes)
        self.versions[number] = version
        _LOG.info("Loading %s version %d", self.name, number)
        try:
            version.model = await asyncio.get_running_loop().run_in_executor(self._pool, self._load, version.path)
        except Exception as error:  # whatever is in that folder must not end the server
            version.state, version.error = "END", shown(str(error) or type(error).__name__)
            _LOG.error("%s version %d cannot be loaded: %s", self.name, number, version.error)
            return
        version.state = "AVAILABLE"
        _LOG.info("Serving %s version %d", self.name, number)

    async def _unload(self, version: Version) -> None:
        version.state = "UNLOADING"
        version.idle.clear()
        if version.in_flight:
            await version.idle.wait()
        model, version.model = version.model, None
        version.state = "END"
        await asyncio.get_running_loop().run_in_executor(self._pool, model.unload)
        _LOG.info("Unloaded %s version %d", self.name, version.number)


@contextlib.asynccontextmanager
async def watched(models: list[ServedModel], seconds: float, looked: Callable[[], None]) -> AsyncIterator[None]:
    """Polls the models until the block ends; `looked` is called after each look."""

    async def watch() -> None:
        while True:
            await asyncio.sleep(seconds)
            for model in models:
                await model.poll()
            looked()

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
