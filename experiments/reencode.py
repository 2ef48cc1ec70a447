"""Copy videos to small files from which random clips are read fast: few pixels, a keyframe every few frames.

Example:
    worldmodel reencode data=videos out=data/small height=256
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path

from omegaconf import MISSING
from tqdm import tqdm

from worldmodel.data.corpus import Corpus, CorpusConfig
from worldmodel.data.corpus_damage import write_table
from worldmodel.data.corpus_files import CorpusError, SourceConfig
from worldmodel.data.images import is_image
from worldmodel.data.reencode import Copy, reencode


@dataclass
class Config:
    """Settings of the copies."""

    #: Folder, list (.txt, .csv), tar shard, or a pattern of these; or name several under sources.
    data: str = ""
    #: Several sources by name, each with a path.
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    #: Directory of the copies, and of videos.csv, which lists them with their labels.
    out: str = MISSING
    #: The shorter side in pixels; smaller videos keep their size. Leave some room to crop.
    height: int = 256
    #: Frames from one keyframe to the next; fewer are faster to read, and larger.
    gop: int = 8
    #: Quality of H.264, lower is better.
    crf: int = 18
    #: Processes.
    workers: int = 2

    def __post_init__(self) -> None:
        if min(self.height, self.gop, self.workers) < 1 or not 0 <= self.crf <= 51:
            raise ValueError("height, gop and workers must be at least 1, and crf from 0 to 51")


def run(config: Config) -> Path:
    """Copy what is not copied yet; returns the list of the copies."""
    corpus = Corpus(CorpusConfig(data=config.data, sources=config.sources, max_damaged=1.0))
    out = Path(config.out).expanduser()
    files: list[tuple[str, str]] = []
    targets = []
    for name, listing in zip(corpus.config.named_sources(), corpus.listings, strict=True):
        for path, label, key, size in zip(
            listing.paths, listing.labels, listing.keys, listing.sizes, strict=True
        ):
            if not is_image(path):
                files.append((path, label))
                targets.append(str(out / _target(config, path, f"{name} {key} {size}")))
    if not files:
        raise CorpusError("there are only pictures here, which need no copies")
    copy = partial(reencode, height=config.height, gop=config.gop, crf=config.crf)
    pool = ProcessPoolExecutor(config.workers, mp_context=multiprocessing.get_context("spawn"))
    copies: list[Copy] = []
    try:
        done = pool.map(copy, [path for path, _ in files], targets)
        copies += tqdm(done, total=len(files), desc="reencode", unit="file", disable=None, leave=False)
    except BrokenProcessPool as error:
        raise OSError(
            f"a process died while copying {files[len(copies)][0]} or a file after it; leave it out, or use fewer "
            "workers if memory is short"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    rows = [(Path(c.target).name, label) for c, (_, label) in zip(copies, files, strict=True) if c.frames]
    write_table(out / "videos.csv", ("path", "label"), rows)
    failed = [(c.source, c.reason) for c in copies if not c.frames]
    write_table(out / "failed.csv", ("path", "reason"), failed)
    if not rows:
        raise CorpusError(f"none of the {len(files)} files can be copied; the first: {': '.join(failed[0])}")
    return out / "videos.csv"


def _target(config: Config, path: str, what: str) -> str:
    """The name of a copy. It says of what and how it is made, so that one that is there is never that of another file.

    A file's place in the corpus is no part of it: as files come and go, the names of the others' copies stay.
    """
    text = f"{what} {config.height} {config.gop} {config.crf}"
    return f"{_stem(path)}-{sha256(text.encode()).hexdigest()[:12]}.mp4"


def _stem(path: str) -> str:
    """The name of a file, or of a member of a tar shard, without what a file system could dislike."""
    stem = Path(path.replace("::", "/")).stem
    return "".join(char if char.isalnum() or char in "-_." else "_" for char in stem)[:80]


def outcome(listed: Path) -> str:
    """What the command says at its end."""
    count = len(listed.read_text().splitlines()) - 1
    failed = len((listed.parent / "failed.csv").read_text().splitlines()) - 1
    return f"{count} copies, data={listed}" + (
        f"; {failed} failed, see {listed.parent / 'failed.csv'}" if failed else ""
    )


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("reencode"))
