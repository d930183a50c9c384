"""Which worker images this installation has started workers with.

A template of yesterday names the image of yesterday. It is remembered in the operator's own
namespace, where no author of a resource can write: what stands in a child is never believed.
"""

from __future__ import annotations

from .api import MERGE_APPLY, Api, Denied
from .names import LABEL_NAME, MANAGER

NAME = "zimage-operator-history"
KEY = "workerImages"
# Workers that were not restarted over so many releases have seen other upgrades; a guess.
LENGTH = 16


async def remember(api: Api, namespace: str, image: str) -> tuple[str, ...]:
    """Give the images of former operators, newest first, and put `image` before them.

    Raises:
        Denied, ClusterUnavailable: it could not be read or written; the caller tries again.
    """
    path = f"/api/v1/namespaces/{namespace}/configmaps/{NAME}"
    known = await read(api, path)
    former = tuple(one for one in known if one != image)[: LENGTH - 1]
    if known[:1] != (image,):
        await write(api, path, namespace, (image, *former))
    return former


async def read(api: Api, path: str) -> tuple[str, ...]:
    """Give what is remembered, newest first; nothing where nobody has written yet."""
    try:
        live = await api.request("GET", path, kind="ConfigMap")
    except Denied as error:
        if error.code != 404:
            raise
        return ()
    return tuple(str((live.get("data") or {}).get(KEY, "")).split())


async def write(api: Api, path: str, namespace: str, images: tuple[str, ...]) -> None:
    """Write the list, one image a line."""
    item = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": namespace, "labels": {LABEL_NAME: MANAGER}},
        "data": {KEY: "".join(f"{image}\n" for image in images)},
    }
    query = {"fieldManager": MANAGER, "force": "true"}
    await api.request("PATCH", path, kind="ConfigMap", query=query, body=item, content_type=MERGE_APPLY)
