"""Takes the README's screenshots of a run's report and of the search page, with a headless Chromium.

    python -m tools.screenshots runs/quickstart docs/pictures

It draws new synthetic pictures of compositions that training never shows, indexes them in the run's folder, and writes
report.png and search.png.
"""

import argparse
import shutil
import subprocess
import tempfile
import threading
import urllib.parse
from pathlib import Path

from .command import command_parser, exit_status
from .search.index import Index, Towers
from .search.server import SearchServer

_SIZE = "1200,860"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = command_parser("screenshots", __doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="a quickstart's folder, with its report and checkpoint")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the two pictures")
    parser.add_argument("--query", default="a red heart", help="what the search page shows (%(default)s)")
    parser.add_argument("--scenes", type=int, default=60, help="pictures to search (%(default)s)")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    import siglip_tf
    from siglip_tf.synthetic import SceneSource

    options.out.mkdir(parents=True, exist_ok=True)
    report = options.run / "report.html"
    if not report.is_file():
        raise ValueError(f"Expected a run with a report. Received: {options.run}, which has no report.html.")
    screenshot(report.resolve().as_uri(), options.out / "report.png")
    checkpoint, pictures = options.run / "checkpoint", options.run / "pictures"
    pictures.mkdir(exist_ok=True)
    scenes = SceneSource("test", size=options.scenes, seed=5, image_size=128)
    for i in range(options.scenes):
        (pictures / f"{i:03d}.jpg").write_bytes(scenes.example(i).image)
    towers = Towers(siglip_tf.SigLIP.from_checkpoint(checkpoint, verbose=False))
    index = Index(pictures)
    index.update(towers, str(checkpoint.resolve()))
    with SearchServer(index, towers, port=0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        query = urllib.parse.urlencode({"q": options.query})
        screenshot(f"http://localhost:{server.server_address[1]}/?{query}", options.out / "search.png")
        server.shutdown()


def screenshot(address: str, path: Path) -> None:
    """Writes a PNG file of a page after it has loaded.

    Raises:
        ValueError: if Chromium is not installed or fails.
    """
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise ValueError("Expected Chromium in PATH: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        words = [browser, "--headless=new", "--no-sandbox", "--hide-scrollbars", f"--window-size={_SIZE}"]
        words += [f"--user-data-dir={profile}", "--virtual-time-budget=20000", f"--screenshot={path.resolve()}"]
        done = subprocess.run([*words, address], capture_output=True, text=True, timeout=180, check=False)
    if done.returncode or not path.is_file():
        raise ValueError(f"Chromium made no picture of {address}: {done.stderr.strip()[-300:]}")
    print(f"Wrote {path}")


if __name__ == "__main__":
    raise SystemExit(main())
