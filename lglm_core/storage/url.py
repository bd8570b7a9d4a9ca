"""URLs as text: their schemes, joining them, and showing them without secrets."""

import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from lglm_core.errors import InputError

WEB = ("http://", "https://")
REMOTE = ("s3://", *WEB)
WEB_ADDRESS = re.compile(r"https?://\S+", re.IGNORECASE)  # in a text
PUNCTUATION = ".,:;)]}'\""  # behind an address in a text


def is_local(url: str) -> bool:
    """Tell whether *url* names a path on this machine's disk."""
    return not url[:8].lower().startswith(REMOTE)


def is_file_url(url: str) -> bool:
    """Tell whether *url* is a ``file://`` URL."""
    return url[:7].lower() == "file://"


def unquote_path(path: str) -> str:
    """Return the path that the quoted path of a ``file://`` URL stands for."""
    return unquote(path, errors="surrogateescape")


def is_web(url: str) -> bool:
    """Tell whether *url* begins as a web address does."""
    return url[:8].lower().startswith(WEB)


def local_path(url: str) -> Path:
    """Return the path that *url* names on this machine's disk."""
    return Path(local_name(url))


def local_name(url: str) -> str:
    """Return the path that *url* names on this disk, as a string; refuse an unknown scheme."""
    if ":" not in url:  # true of nearly all
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
    """Append path segments to a URL or path, quoted for a ``file://`` URL and unchanged for any other."""
    if is_file_url(url):
        names = tuple(quote(name, errors="surrogateescape") for name in names)
    return "/".join([url.rstrip("/"), *names])


def absolute(url: str) -> str:
    """Return *url* so that it means the same in a process with another working directory."""
    return url if "://" in url else str(Path(url).absolute())


def redact_url(url: str) -> str:
    """Return *url* as it may be shown: a web address loses user, password and query."""
    if not is_web(url):
        return url
    scheme, _, rest = re.split(r"[?#]", url, maxsplit=1)[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def redact(text: str) -> str:
    """Return *text* with every web address in it redacted as :func:`redact_url` does."""

    def redacted(found: re.Match[str]) -> str:
        address = found[0].rstrip(PUNCTUATION)
        return redact_url(address) + found[0][len(address) :]

    return WEB_ADDRESS.sub(redacted, text)
