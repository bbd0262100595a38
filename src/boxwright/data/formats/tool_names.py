"""What an annotation tool calls an image, and what the image is called on disk.

Label Studio puts eight hexadecimal digits before the name of an uploaded file, encodes names as URLs do, and names
files of its local storage by a query. Such a name is only taken apart where no image has it as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")


def meant_names(name: str) -> Iterator[str]:
    """Other names that `name` may stand for, the most literal first.

    >>> list(meant_names("images/my%20a.jpg"))
    ['images/my a.jpg']
    >>> list(meant_names("/data/local-files/?d=photos%2Fa.jpg"))
    ['photos/a.jpg']
    >>> list(meant_names("/data/upload/1/cb0618f6-my%20a.jpg"))
    ['/data/upload/1/cb0618f6-my a.jpg', '/data/upload/1/my a.jpg']
    >>> list(meant_names("https://host/a.jpg?expires=60"))
    ['https://host/a.jpg']
    """
    plain = name
    if "?d=" in plain:
        plain = plain.partition("?d=")[2].partition("&")[0]
    elif "://" in plain:
        plain = urlsplit(plain)._replace(query="", fragment="").geturl() or plain
    plain = unquote(plain)
    folder, slash, last = plain.replace("\\", "/").rpartition("/")
    for other in (plain, folder + slash + _UPLOADED.sub("", last)):
        if other != name:
            yield other
            name = other
