"""What an address means, and how addresses are joined and shown."""

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from lglm_core.errors import InputError

if TYPE_CHECKING:
    pass

WEB = ("http://", "https://")


REMOTE = ("s3://", *WEB)


# A segment that names an archive, with more behind it. What is packed as a whole can only be refused.
ARCHIVE = re.compile(
    r"\.(?<=[^/]\.)(?:zip|tar|(tgz|tbz2?|txz|tzst|tar\.(?:gz|bz2|xz|zst)))(?=/)", re.IGNORECASE
)


def is_local(url: str) -> bool:
    """Tell whether *url* names a place on this machine's disk."""
    return not url[:8].lower().startswith(REMOTE)


def is_file_url(url: str) -> bool:
    """Tell whether *url* is a ``file://`` URL."""
    return url[:7].lower() == "file://"


def unquote_path(path: str) -> str:
    """Return the name that a quoted path of a ``file://`` URL stands for."""
    return unquote(path, errors="surrogateescape")


def is_web(url: str) -> bool:
    """Tell whether *url* begins as a web address does."""
    return url[:8].lower().startswith(WEB)


def is_address(url: str) -> bool:
    """Tell whether all of *url* is a web address, where ``%``, ``#`` and ``?`` have meanings of their own."""
    return is_web(url) and not ARCHIVE.search(url)


def local_path(url: str) -> Path:
    """Return the path that *url* names on this machine's disk."""
    return Path(local_name(url))


def local_name(url: str) -> str:
    """Return the name on this disk that *url* stands for; refuse a scheme that lglm does not know."""
    if ":" not in url:  # as nearly all are
        return url
    parts = urlsplit(url)
    if is_file_url(url):
        if parts.netloc not in ("", "localhost"):
            raise InputError(
                f"{url}: names a file of the machine {parts.netloc!r}; one of this machine is "
                "file:///folder/file, from the root, or a plain path"
            )
        return unquote_path(parts.path)
    if "://" in url:
        address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        raise InputError(
            f"{address}: {parts.scheme}:// is not a place lglm can reach; "
            "use a path, file://, s3://, http:// or https://"
        )
    return url


def join(url: str, *names: str) -> str:
    """Append path segments to a URL or path, as they are called; ``file://`` alone has them quoted."""
    if is_file_url(url):
        names = tuple(quote(name, errors="surrogateescape") for name in names)
    return "/".join([url.rstrip("/"), *names])


def absolute(url: str) -> str:
    """Return *url* so that it means the same in a process with another working directory."""
    return url if "://" in url else str(Path(url).absolute())


IN_A_TEXT = re.compile(r"https?://\S+", re.IGNORECASE)


BEHIND = ".,:;)]}'\""  # of a text, not of the address in it


def redact_url(url: str) -> str:
    """Return *url* as it may be shown: of a web address without user, password and query."""
    if not url[:8].lower().startswith(("http://", "https://")):
        return url
    scheme, _, rest = re.split(r"[?#]", url, maxsplit=1)[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def redact(text: str) -> str:
    """Return *text* with all web addresses in it as they may be shown."""

    def show(found: re.Match[str]) -> str:
        address = found[0].rstrip(BEHIND)
        return redact_url(address) + found[0][len(address) :]

    return IN_A_TEXT.sub(show, text)
