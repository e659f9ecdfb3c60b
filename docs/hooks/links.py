"""Hooks of mkdocs: links that work on GitHub and in the site, and pages that fetch nothing from other servers.

A link out of ``docs/`` leads to the site's copy of that file, or to the repository.
"""

import posixpath
import re
from typing import Any

# Pages of the site that include a file of the repository.
_COPIES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "weights/README.md": "shipped_weights.md",
}
_FOREIGN_PICTURE = re.compile(r'<img [^>]*?src="https?:[^>]*>')
_ALT = re.compile(r'alt="([^"]*)"')
_LINK = re.compile(r"(\]\(|<img [^>]*?src=\")(?![a-z]+:|#|/)([^)\s#\"]+)")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Called by mkdocs for each page, after the files that it includes are in place."""
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def target(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[2]))
        if path in _COPIES:
            path = posixpath.join("docs", _COPIES[path])
        if path.startswith("docs/") and files.get_file_from_path(path.removeprefix("docs/")):
            return link[1] + posixpath.relpath(path, folder)
        return f"{link[1]}{config.extra['repository']}/blob/main/{path}"

    return _LINK.sub(target, markdown)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Called for each finished page: pictures of other servers, such as badges, give way to their text."""

    def text(picture: re.Match[str]) -> str:
        alt = _ALT.search(picture[0])
        return alt[1] if alt else ""

    return _FOREIGN_PICTURE.sub(text, output)
