"""`make pictures`: the README's pictures of the page, out of what the tests photographed.

`VOLTFLOW_PICTURES=1 pytest tests/e2e/test_page_pictures.py` makes the screenshots, `python -m tests.e2e.pictures` puts
them into docs/img, as small as PNG can be without a loss.
"""

from __future__ import annotations

from PIL import Image

from tests.e2e.window import ARTIFACTS
from tests.servers import REPOSITORY

PICTURES = {
    "page-desktop": "picture-fleet-desktop", "page-phone": "picture-pack-phone", "page-dark": "picture-pack-dark",
    "page-3d": "picture-3d",
}  # fmt: skip
"""By name in docs/img: which screenshot it is."""
MOST_BYTES = 250_000


def main() -> None:
    for name, shot in PICTURES.items():
        path = REPOSITORY / "docs" / "img" / f"{name}.png"
        Image.open(ARTIFACTS / f"{shot}.png").convert("RGB").save(path, optimize=True)
        size = path.stat().st_size
        print(f"{path.relative_to(REPOSITORY)}: {size // 1000} KB")
        if size > MOST_BYTES:
            raise SystemExit(f"{path} is larger than {MOST_BYTES // 1000} KB: make its window smaller")


if __name__ == "__main__":
    main()
