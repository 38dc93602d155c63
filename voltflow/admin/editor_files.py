"""The files of Node-RED's editor: where they are, and how they get there.

They are two npm packages, unchanged: of `editor-client` the page, of `nodes` the core nodes' forms, help and icons. Of
32.8 + 2.9 MB a gateway needs 5 MB, compressed once, here. A checkout fetches them with `voltflow editor install`.

    >>> [package.name for package in PACKAGES]
    ['@node-red/editor-client', '@node-red/nodes']
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from voltflow.admin import npm_files
from voltflow.admin.npm_files import Bundle, Package, Say

__all__ = ["INSTALL_COMMAND", "PACKAGES", "VERSION", "bundle", "folder", "install", "installed"]

INSTALL_COMMAND: Final = "voltflow editor install"
VERSION: Final = "5.0.7"

PACKAGES: Final = (
    Package(
        "@node-red/editor-client",
        VERSION,
        "sha512-bvgOGXvArCxTeB43P18Wu8UZAc3qXKPArr83a8BG7F2vcXFbYFbw6nbe9Euz9uWEVAEPrz3cPrGp8xVCZSyUwg==",
        keep=r"LICENSE$|templates/|public/|locales/en-US/",
        # what is here a second time, or only for JavaScript, for what is not loaded here, for other languages
        leave=r"public/(types|vendor/ace|vendor/mermaid|vendor/monaco/dist/locale|red/tours)/"
        r"|public/red/(red|main)\.js$|public/vendor/monaco/dist/ts\.worker\.js",
    ),
    Package(
        "@node-red/nodes",
        VERSION,
        "sha512-VBebFd8jBg8E7wga1tqWetTx+Iv9SfnFCc/Ik4/cci6827WIlbrZLVwqmc278IGmZti7rQeu9LCo9CjVzBsrWw==",
        keep=r"LICENSE$|icons/|locales/en-US/|core/.*\.html$|core/common/lib/debug/",
    ),
)

NOTICE = f"""\
The files in this folder are parts of the npm packages {PACKAGES[0].name} and {PACKAGES[1].name}, version {VERSION}.
Copyright OpenJS Foundation and other contributors, https://openjsf.org/
Licensed under the Apache License, Version 2.0: editor-client/LICENSE and nodes/LICENSE.

Nothing in them was changed. Files that are not needed were left out; those whose name ends in .gz were compressed.
editor-client/public/vendor holds works of others under their own licences, named in the files themselves; for the
text editor, Monaco, see editor-client/public/vendor/monaco (ThirdPartyNotices.txt).
"""


def bundle() -> Bundle:
    """The packages with all that installing them needs."""
    return Bundle("the editor", VERSION, PACKAGES, NOTICE, INSTALL_COMMAND, "editor")


def folder() -> Path:
    """Where the files belong: package data of the gateway's agent."""
    return npm_files.of_agent("editor", "files")


def installed(into: Path | None = None) -> bool:
    """Whether the files of this version are there."""
    return npm_files.installed(bundle(), into or folder())


def install(given: Sequence[Path] = (), *, into: Path | None = None, say: Say = print) -> bool:
    """Put the files there; False where they are there already. Raises NpmFilesError."""
    return npm_files.install(bundle(), given, into or folder(), say)
