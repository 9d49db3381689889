"""Paths and URLs as users give them. URLs are printed without secrets."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from pipeline.errors import StoreError

EXTRAS: Final = {"s3": "s3", "gs": "gcs", "https": "http", "http": "http"}
"""Scheme -> the extra of this package that installs its client."""


@dataclass(frozen=True, repr=False)
class Url:
    """A folder or file behind a URL. Its str() has no secrets; only the client gets `text`."""

    text: str

    def __str__(self) -> str:
        return scrubbed(self.text)

    __repr__ = __str__

    def __truediv__(self, name: str) -> "Url":
        if not self.on_web:  # keys may hold any character
            return Url(f"{self.text.rstrip('/')}/{name}")
        parts = urlsplit(self.text)
        return Url(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}").geturl())

    @property
    def scheme(self) -> str:
        return self.text.partition("://")[0].lower()

    @property
    def on_web(self) -> bool:
        """Whether it is of http or https, and so can only be read."""
        return self.scheme in ("http", "https")

    @property
    def path(self) -> str:
        """Without scheme and query: "eyes/cache" of s3://eyes/cache."""
        if not self.on_web:
            return self.text.partition("://")[2].strip("/")
        parts = urlsplit(self.text)
        return unquote(f"{parts.netloc.rpartition('@')[2]}{parts.path}").strip("/")

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> "Url":
        if not self.on_web:
            return Url(f"{self.scheme}://{self.path.rpartition('/')[0]}")
        parts = urlsplit(self.text)
        return Url(parts._replace(path=parts.path.rstrip("/").rpartition("/")[0]).geturl())

    @property
    def slug(self) -> str:
        """A folder name for its files on this machine: readable, and different for each URL."""
        digest = hashlib.sha256(f"{self.scheme}://{self.path}".encode("utf-8", "surrogateescape")).hexdigest()
        return f"{re.sub(r'[^A-Za-z0-9]+', '-', self.path)[-40:].strip('-')}-{digest[:12]}"


def path_or_url(text: str | Path | Url) -> Path | Url:
    """A URL if the text begins with a scheme, else a path. Raises StoreError for an unknown scheme and for an empty
    text."""
    if not isinstance(text, str):
        return text
    if not text:
        raise StoreError("an empty name where a folder, a file or a URL is wanted")
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", text)  # one letter is a drive: C://photos
    if scheme is None:
        return Path(text)
    if scheme[1].lower() not in EXTRAS:
        raise StoreError(f"{scrubbed(text)}: of URLs only {', '.join(f'{name}://' for name in EXTRAS)} are known")
    return Url(text)


def scrubbed(text: str) -> str:
    """The text without passwords in URLs, values of queries (signatures), and keys of the environment."""
    text = re.sub(r"(\w://)[^/@\s]+@", r"\1***@", text)
    text = re.sub(r"([?&][\w.%-]+=)[^&\s'\"<>)]+", r"\1***", text)
    text = re.sub(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b", "***", text)
    for name, value in os.environ.items():
        if len(value) > 7 and re.search("KEY|SECRET|TOKEN|PASSWORD", name):
            text = text.replace(value, "***")
    return text
