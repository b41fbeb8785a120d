"""The web server of `tools.search`, which serves the page and JSON to one person on this machine."""

import functools
import io
import ipaddress
import json
import threading
import urllib.parse
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from .index import Index, Towers
from .page import ICON, search_page
from .scores import Scores, label_shares

MAX_UPLOAD = 16 * 2**20  # bytes of a picture
_MAX_QUERY = 1_000  # characters
_MAX_LABELS = 200
_MAX_RESULTS = 200
_MODEL_CALLS_AT_ONCE = 2
_THUMBNAIL = 256  # pixels
_TYPES = {"jpg": "jpeg", "jpeg": "jpeg", "png": "png", "gif": "gif", "bmp": "bmp", "webp": "webp"}


class SearchServer(ThreadingHTTPServer):
    """Serves one index.

    Args:
        index: a loaded index.
        towers: the model of the index.
        host: the address to listen on.
        port: the port. 0 selects any free port.
    """

    daemon_threads = True

    def __init__(self, index: Index, towers: Towers, host: str = "127.0.0.1", port: int = 8765):
        self.index, self.towers = index, towers
        self.busy = threading.BoundedSemaphore(_MODEL_CALLS_AT_ONCE)
        self.scores = Scores(towers, index.vectors)
        self.page, self.policy = search_page(str(index.folder), len(index.files), towers.bias is not None, _MAX_QUERY)
        self._by_path = {file.path: i for i, file in enumerate(index.files)}
        self.thumbnail = functools.lru_cache(maxsize=2_000)(self._thumbnail)
        super().__init__((host, port), _Handler)
        # This refuses requests of another site's page whose host name resolves to this address (DNS rebinding).
        self.checks_host = ipaddress.ip_address(str(self.server_address[0])).is_loopback

    def hits(self, query: np.ndarray, count: int, with_text: bool) -> list[dict]:
        """Returns the best pictures for a query (embed_dim,), with id, path, rank, scores, and explanation."""
        found = self.index.search(query, count)
        explanations = self.scores.explanations(query, [cosine for _, cosine in found], with_text)
        return [
            {
                "id": i,
                "path": self.index.files[i].path,
                "rank": rank,
                **self.scores.of_pair(cosine, with_text),
                "explanation": explanations[rank - 1],
            }
            for rank, (i, cosine) in enumerate(found, 1)
        ]

    def some(self, count: int) -> list[dict]:
        """Returns pictures that are evenly spread over the index, to show before the first query."""
        if not self.index.files:
            return []
        places = np.unique(np.linspace(0, len(self.index.files) - 1, count, dtype=int))
        return [{"id": int(i), "path": self.index.files[i].path} for i in places]

    def vector_of(self, path: str) -> np.ndarray | None:
        """Returns the embedding of a picture in the index, or None if the path is not in the index."""
        position = self._by_path.get(path)
        return None if position is None else self.index.vectors[position]

    def labels(self, data: bytes, labels: list[str]) -> list[dict]:
        """Returns labels for a picture, best first: "label", "share" (softmax over the labels), and the scores."""
        with self.busy:
            cosines = (self.towers.texts(labels) @ self.towers.image(data)).tolist()
        shares = label_shares(self.towers.temperature, cosines)
        rows = [
            {"label": label, "share": share, **self.scores.of_pair(cosine, with_text=True)}
            for label, share, cosine in zip(labels, shares, cosines, strict=True)
        ]
        return sorted(rows, key=lambda row: -row["share"])

    def _thumbnail(self, position: int) -> bytes:
        from PIL import Image, ImageOps

        with Image.open(self.index.folder / self.index.files[position].path) as image:
            image.draft("RGB", (_THUMBNAIL, _THUMBNAIL))
            small = ImageOps.exif_transpose(image).convert("RGB")
            small.thumbnail((_THUMBNAIL, _THUMBNAIL))
        result = io.BytesIO()
        small.save(result, "JPEG", quality=85)
        return result.getvalue()


class _RefusedError(Exception):
    """Raised to send a status other than 200, with a sentence for the page."""

    def __init__(self, status: HTTPStatus, message: str):
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: SearchServer
    server_version = "siglip_tf"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds a client may stall

    def do_GET(self) -> None:
        self._reply(self._get)

    def do_POST(self) -> None:
        self._reply(self._post)

    def _reply(self, handle) -> None:
        try:
            self._check_host()
            kind, body = handle()
            status = HTTPStatus.OK
        except _RefusedError as error:
            status, kind, body = error.status, "application/json", json.dumps({"error": str(error)}).encode()
            self.close_connection = True  # the rest of a refused body must not be read as a request
        except ValueError:  # invalid addresses, hosts, and numbers
            status, kind = HTTPStatus.BAD_REQUEST, "application/json"
            body = json.dumps({"error": "This request makes no sense."}).encode()
            self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", self.server.policy)
        self.send_header("Cache-Control", "max-age=600" if kind.startswith("image/") else "no-store")
        self.end_headers()
        self.wfile.write(body)

    def _check_host(self) -> None:
        name = urllib.parse.urlsplit(f"//{self.headers.get('Host', '')}").hostname
        if self.server.checks_host and name not in ("localhost", "127.0.0.1", "::1", self.server.server_address[0]):
            raise _RefusedError(HTTPStatus.FORBIDDEN, "This server answers to localhost only.")

    def _get(self) -> tuple[str, bytes]:
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/":
            return "text/html; charset=utf-8", self.server.page.encode()
        if url.path == "/icon.svg":
            return "image/svg+xml", ICON.encode()
        if url.path == "/about":
            index = self.server.index
            about = {
                "folder": str(index.folder),
                "pictures": len(index.files),
                "sigmoid": self.server.towers.bias is not None,
            }
            return _json(about)
        if url.path == "/search":
            return self._search(urllib.parse.parse_qs(url.query))
        if url.path == "/browse":
            return _json({"results": self.server.some(_count(urllib.parse.parse_qs(url.query)))})
        for prefix, load in (("/thumbnail/", self._thumbnail), ("/picture/", self._picture)):
            if url.path.startswith(prefix):
                return load(self._position(url.path[len(prefix) :]))
        raise _RefusedError(HTTPStatus.NOT_FOUND, "There is no such page.")

    def _search(self, query: dict[str, list[str]]) -> tuple[str, bytes]:
        if "like" in query and "q" not in query:
            vector = self.server.vector_of(query["like"][0])
            if vector is None:
                raise _RefusedError(HTTPStatus.NOT_FOUND, "There is no such picture in the index.")
            return self._hits(vector, query, with_text=False)
        text = query.get("q", [""])[0]
        if not text.strip() or len(text) > _MAX_QUERY:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, f"Type something, at most {_MAX_QUERY} characters.")
        with self.server.busy:
            vector = self.server.towers.texts([text])[0]
        return self._hits(vector, query, with_text=True)

    def _post(self) -> tuple[str, bytes]:
        url = urllib.parse.urlsplit(self.path)
        # A page of another site cannot send this header without a preflight request, which this server refuses.
        if self.headers.get("X-Search") != "1":
            raise _RefusedError(HTTPStatus.FORBIDDEN, "Uploads come from the search page only.")
        query = urllib.parse.parse_qs(url.query)
        data = self._body()
        try:
            if url.path == "/similar":
                with self.server.busy:
                    vector = self.server.towers.image(data)
                return self._hits(vector, query, with_text=False)
            if url.path == "/labels":
                labels = [label for label in query.get("label", []) if label.strip()]
                if not labels or len(labels) > _MAX_LABELS or max(map(len, labels)) > _MAX_QUERY:
                    raise _RefusedError(HTTPStatus.BAD_REQUEST, f"Give 1 to {_MAX_LABELS} labels.")
                return _json({"labels": self.server.labels(data, labels)})
        except ValueError as error:
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"This picture cannot be read: {error}") from error
        raise _RefusedError(HTTPStatus.NOT_FOUND, "There is no such page.")

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "The length of the upload is missing.")
        if int(length) > MAX_UPLOAD:
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"At most {MAX_UPLOAD // 2**20} MiB a picture.")
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "The upload broke off.")
        return data

    def _hits(self, vector: np.ndarray, query: dict[str, list[str]], with_text: bool) -> tuple[str, bytes]:
        return _json({"results": self.server.hits(vector, _count(query), with_text)})

    def _position(self, text: str) -> int:
        if not text.isdigit() or int(text) >= len(self.server.index.files):
            raise _RefusedError(HTTPStatus.NOT_FOUND, "There is no such picture.")
        return int(text)

    def _thumbnail(self, position: int) -> tuple[str, bytes]:
        from PIL import Image

        try:
            return "image/jpeg", self.server.thumbnail(position)
        except (OSError, Image.DecompressionBombError) as error:  # the file was removed or replaced
            raise _RefusedError(HTTPStatus.GONE, "The picture is not there any more.") from error

    def _picture(self, position: int) -> tuple[str, bytes]:
        path = self.server.index.folder / self.server.index.files[position].path
        try:
            return f"image/{_TYPES[path.suffix.lower()[1:]]}", path.read_bytes()
        except OSError as error:
            raise _RefusedError(HTTPStatus.GONE, "The picture is not there any more.") from error

    def log_message(self, format: str, *args) -> None:
        """Logs nothing, because queries are private."""


def _count(query: dict[str, list[str]]) -> int:
    """Returns how many results a request asks for."""
    count = query.get("n", ["40"])[0]
    return min(int(count), _MAX_RESULTS) if count.isdigit() and int(count) else 40


def _json(value: dict) -> tuple[str, bytes]:
    return "application/json", json.dumps(value).encode()
