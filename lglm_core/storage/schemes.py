"""From a URL to the location it names: the only module that knows which class serves which scheme.

A plain path and ``file://`` name the local disk, ``s3://bucket/key`` an object in a bucket, ``http://`` and
``https://`` a file on a web server, and ``photos.zip/cats/1.jpg`` a file in an archive on any of them.
"""

from lglm_core.errors import InputError
from lglm_core.storage import archive_url
from lglm_core.storage.disk import DiskLocation
from lglm_core.storage.location import Location
from lglm_core.storage.url import is_local, is_web, local_name


def locate(url: str) -> Location:
    """Return the location that *url* names.

    Nothing is read or asked of a server. On this disk, a folder that is named like an archive is a folder.
    """
    return _in_archive(url) or _outside_archives(url)


def locate_folder(url: str) -> Location:
    """Return the location that *url* names as a folder; an archive is the folder of the files in it."""
    return _in_archive(f"{url.rstrip('/')}/") or _outside_archives(url)


def _in_archive(url: str) -> Location | None:
    """Return the location in the first archive that *url* leads into, or None if it leads into none."""
    for split in archive_url.splits(url):
        archive = _outside_archives(split.archive)
        if isinstance(archive, DiskLocation) and not archive.path.is_file():
            continue
        if split.compressed_tar:
            raise InputError(
                f"{archive.url}: a tar that is compressed as a whole can only be read from its start; "
                "unpack it, or pack it again as .tar or .zip"
            )
        from lglm_core.storage.archive import ArchiveLocation

        return ArchiveLocation(f"{archive.url}{url[len(split.archive) :]}", archive, split.member)
    return None


def _outside_archives(url: str) -> Location:
    """Return the location that *url* names if no part of it is an archive."""
    if is_local(url):
        return DiskLocation(url, local_name(url))
    if is_web(url):
        from lglm_core.storage.http import HttpLocation  # imported only when needed, as boto3 is below

        return HttpLocation(url)
    from lglm_core.storage.s3 import S3Location

    return S3Location(f"s3://{url[5:]}")
