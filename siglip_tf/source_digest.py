"""A hash of source code that comments, docstrings, and layout do not change. It is a key of results that are kept."""

import ast
import hashlib
from collections.abc import Iterable
from pathlib import Path

_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def source_digest(files: Iterable[Path]) -> str:
    """Returns the SHA-256 hash, in hexadecimal, of the syntax trees of Python files, in their order.

    Raises:
        SyntaxError: if a file is not Python code.
    """
    digest = hashlib.sha256()
    for file in files:
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()
