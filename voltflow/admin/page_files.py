"""What the gateway's page draws with: uPlot (charts) and three.js (the pack in 3D), npm packages, unchanged.

A checkout fetches them with `voltflow page install`, a wheel brings them. Without them the page works but for its charts
and the 3D view, and says so.

    >>> [package.spec for package in PACKAGES]
    ['uplot@1.6.32', 'three@0.185.1']
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from voltflow.admin import npm_files
from voltflow.admin.npm_files import Bundle, Package, Say

__all__ = ["INSTALL_COMMAND", "PACKAGES", "bundle", "folder", "install", "installed"]

INSTALL_COMMAND: Final = "voltflow page install"

PACKAGES: Final = (
    Package(
        "uplot",
        "1.6.32",
        "sha512-KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw==",
        keep=r"LICENSE$|dist/uPlot\.esm\.js$|dist/uPlot\.min\.css$",
    ),
    Package(
        "three",
        "0.185.1",  # later ones have no compressed build any more
        "sha512-5aojFCXKwnjBRZvUnt3WFfEcvUJgkN5LlijRFN95hMy8WVkG4I0QNcJE+OuWvuJ0bOdStrbfXn0pkd6/QyiAlg==",
        keep=r"LICENSE$|build/three\.(core|module)\.min\.js$",
    ),
)

NOTICE: Final = f"""\
The page of the Voltflow gateway draws with parts of these npm packages, in which nothing was changed:

{PACKAGES[0].spec}   Copyright Leon Sorokin and contributors   MIT License: uplot/LICENSE
{PACKAGES[1].spec}   Copyright three.js authors                MIT License: three/LICENSE

Files that are not needed were left out; those whose name ends in .gz were compressed.
"""


def bundle() -> Bundle:
    """The packages with all that installing them needs."""
    version = ", ".join(f"{package.name} {package.version}" for package in PACKAGES)
    return Bundle("the set of page libraries", version, PACKAGES, NOTICE, INSTALL_COMMAND, "page")


def folder() -> Path:
    """Where the files belong: package data of the gateway's agent, beside the page's own."""
    return npm_files.of_agent("page", "vendor")


def installed(into: Path | None = None) -> bool:
    """Whether the files of these versions are there."""
    return npm_files.installed(bundle(), into or folder())


def install(given: Sequence[Path] = (), *, into: Path | None = None, say: Say = print) -> bool:
    """Put the files there; False where they are there already. Raises NpmFilesError."""
    return npm_files.install(bundle(), given, into or folder(), say)
