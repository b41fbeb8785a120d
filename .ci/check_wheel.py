"""Checks what a wheel holds: `python .ci/check_wheel.py dist/NAME.whl`.

A wheel must hold every module of a clone, the kernel's source, and the command `siglip-tf`. It must install nothing but
`siglip_tf` into site-packages.
"""

import pathlib
import sys
import zipfile

ROOT = pathlib.Path(__file__).parent.parent


def main(wheel: str) -> int:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (archive.read(name).decode() for name in names if name.endswith("/entry_points.txt"))
    problems = [f"installs {top!r} at the top level" for top in sorted({name.split("/")[0] for name in names})
                if top != "siglip_tf" and not top.endswith(".dist-info")]  # fmt: skip
    wanted = {str(path.relative_to(ROOT)) for path in (ROOT / "siglip_tf").rglob("*.py")}
    wanted |= {
        f"siglip_tf/{path.relative_to(ROOT)}" for top in ("tools", "recipes") for path in (ROOT / top).rglob("*.py")
    }
    data = [path for top in ("siglip_tf", "tools", "recipes") for path in (ROOT / top).rglob("*")
            if path.is_file() and path.suffix not in (".py", ".pyc")]  # fmt: skip
    for path in data:
        relative = path.relative_to(ROOT)
        wanted.add(str(relative) if relative.parts[0] == "siglip_tf" else f"siglip_tf/{relative}")
    problems += [f"lacks {name}" for name in sorted(wanted - names)]
    if "siglip-tf = siglip_tf.tools.cli:main" not in entry_points:
        problems.append("has no command siglip-tf")
    for problem in problems:
        print(f"{wheel} {problem}", file=sys.stderr)
    if not problems:
        print(f"{wheel}: {len(names)} files, nothing at the top level but siglip_tf.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
