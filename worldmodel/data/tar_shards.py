"""Random access to the members of WebDataset tar shards, through an index of offsets that is made once and cached.

A member is addressed as ``shard.tar::name`` wherever a path to a video or a picture may stand. Nothing is ever
unpacked: a member is read where it lies in the shard.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from worldmodel.atomic import write_bytes
from worldmodel.data.strings import Strings

SEPARATOR = ".tar::"
FORMAT = 1
LABEL_KEYS = ("label", "cls", "class")
MAX_LABEL_BYTES = 1 << 20


@dataclass(frozen=True)
class Place:
    """Where the bytes of a file are: all of ``file``, or ``size`` bytes of it from ``offset``."""

    file: str
    offset: int | None
    size: int
    mtime_ns: int

    @property
    def url(self) -> str:
        """The name by which FFmpeg opens it."""
        if self.offset is None:
            return os.path.abspath(self.file)  # FFmpeg would take what stands before a colon for a protocol
        return f"subfile,,start,{self.offset},end,{self.offset + self.size},,:{os.path.abspath(self.file)}"

    def read(self) -> bytes:
        """All of its bytes."""
        with open(self.file, "rb") as file:
            file.seek(self.offset or 0)
            return file.read(self.size)


@dataclass(frozen=True)
class TarIndex:
    """The regular files of one shard, in its order.

    Attributes:
        names: Their names.
        offsets, sizes: ``(len(names),)`` int64; where their bytes are in the shard.
        labels: What the ``.cls`` or ``.json`` member of the same sample says; empty where there is none.
        truncated: The shard ends before its last member does; that one is left out.
    """

    names: Strings
    offsets: np.ndarray
    sizes: np.ndarray
    labels: Strings
    mtime_ns: int
    truncated: bool

    def find(self, name: str) -> int:
        """The position of a member; -1 where there is none."""
        return self._positions.get(name, -1)

    @functools.cached_property
    def _positions(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.names)}


def split_member(path: str) -> tuple[str, str] | None:
    """``("a/shard.tar", "name")`` of ``a/shard.tar::name``; None for a path that names no member."""
    shard, found, name = path.partition(SEPARATOR)
    return (shard + ".tar", name) if found and name else None


def locate(path: str) -> Place:
    """Where the bytes of a file or of a shard's member are.

    Raises:
        OSError: There is no such file or shard, or it may not be read.
        ValueError: The shard is no tar file, or has no such member.
    """
    member = split_member(path)
    if member is None or os.path.exists(path):
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise ValueError(f"{path} is not a regular file; name a file")
        return Place(path, None, status.st_size, status.st_mtime_ns)
    shard, name = member
    index = load_tar_index(shard)
    position = index.find(name)
    if position < 0:
        raise ValueError(f"{shard} has no member {name!r}; `tar tf {shard}` lists those that it has")
    return Place(shard, int(index.offsets[position]), int(index.sizes[position]), index.mtime_ns)


def load_tar_index(shard: str) -> TarIndex:
    """The index of a shard: from memory, else from the cache, else made from the shard's headers.

    Raises:
        OSError: There is no such file, or it may not be read.
        ValueError: It is not an uncompressed tar file, or a member's name would lead out of it.
    """
    status = os.stat(shard)
    return _load(os.path.abspath(shard), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _load(shard: str, size: int, mtime_ns: int) -> TarIndex:
    place = _cache_file(shard)
    cached = _read_cached(place, size, mtime_ns)
    if cached is not None:
        return cached
    index = build_tar_index(shard)
    head = json.dumps({"format": FORMAT, "size": size, "mtime_ns": mtime_ns, "truncated": index.truncated})
    buffer = io.BytesIO()
    arrays = {"offsets": index.offsets, "sizes": index.sizes}
    for name, strings in (("names", index.names), ("labels", index.labels)):
        arrays[f"{name}_text"], arrays[f"{name}_ends"] = strings.text, strings.ends
    np.savez(buffer, head=np.frombuffer(head.encode(), dtype=np.uint8), **arrays)  # type: ignore[arg-type]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(place, buffer.getvalue())
    except OSError:
        pass  # it is made again the next time
    return index


def build_tar_index(shard: str) -> TarIndex:
    """Read the headers of a shard; see ``load_tar_index``."""
    size, mtime_ns = os.path.getsize(shard), os.stat(shard).st_mtime_ns
    names: list[str] = []
    spans: list[tuple[int, int]] = []
    labels: dict[str, str] = {}
    truncated, end = False, 0
    try:
        with tarfile.open(shard, "r:") as tar, open(shard, "rb") as file:
            try:
                for member in tar:
                    tar.members = []  # type: ignore[attr-defined]  # else every header is kept
                    end = member.offset_data + (member.size if member.isreg() else 0)
                    if not member.isreg() or member.sparse is not None:
                        continue
                    _check_name(shard, member.name)
                    if member.offset_data + member.size > size:
                        truncated = True
                        break
                    names.append(member.name)
                    spans.append((member.offset_data, member.size))
                    if member.name.endswith((".cls", ".json")) and member.size <= MAX_LABEL_BYTES:
                        file.seek(member.offset_data)
                        label = _read_label(member.name, file.read(member.size))
                        if label and (member.name.endswith(".cls") or sample_key(member.name) not in labels):
                            labels[sample_key(member.name)] = label
            except tarfile.ReadError:
                truncated = True
            file.seek(end + -end % tarfile.BLOCKSIZE)
            rest = file.read(tarfile.BLOCKSIZE)  # zeros, if the archive was finished
            truncated = truncated or (rest != b"" and rest != bytes(tarfile.BLOCKSIZE))
    except tarfile.TarError as error:
        raise ValueError(
            f"{shard} is not an uncompressed tar file ({error}); unpack it, or pack it again without compression"
        ) from error
    table = np.array(spans, dtype=np.int64).reshape(-1, 2)
    texts = Strings(labels.get(sample_key(name), "") for name in names)
    return TarIndex(Strings(names), table[:, 0].copy(), table[:, 1].copy(), texts, mtime_ns, truncated)


def sample_key(name: str) -> str:
    """What the members of one sample share: the name up to the first dot behind its folders."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _check_name(shard: str, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ValueError(
            f"{shard} has a member named {name!r}, which leads out of the shard; do not use it as it is"
        )


def _read_label(name: str, content: bytes) -> str:
    text = content.decode("utf-8", errors="replace").strip()
    if name.endswith(".cls"):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return ""
    found = [value[key] for key in LABEL_KEYS if key in value] if isinstance(value, dict) else []
    return str(found[0]) if found and isinstance(found[0], str | int) else ""


def _cache_file(shard: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    key = hashlib.sha256(shard.encode(errors="surrogateescape")).hexdigest()[:32]
    return Path(home, "worldmodel", "tar", f"{key}.npz")


def _read_cached(place: Path, size: int, mtime_ns: int) -> TarIndex | None:
    try:
        with np.load(place, allow_pickle=False) as arrays:
            head = json.loads(arrays["head"].tobytes())
            if head != {**head, "format": FORMAT, "size": size, "mtime_ns": mtime_ns}:
                return None
            names, labels = (
                Strings.from_arrays(arrays[f"{part}_text"], arrays[f"{part}_ends"])
                for part in ("names", "labels")
            )
            return TarIndex(
                names, arrays["offsets"], arrays["sizes"], labels, mtime_ns, bool(head["truncated"])
            )
    except Exception:  # missing, cut off, not ours: zip and npy have many ways to say so
        return None
