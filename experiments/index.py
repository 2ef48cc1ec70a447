"""Check a corpus of videos before training on it: what is there, what is damaged, how fast it can be read.

Example:
    worldmodel index data=videos verify=true
"""

from dataclasses import asdict, dataclass, field
from os.path import abspath
from pathlib import Path

from tqdm import tqdm

from worldmodel.data.corpus import Corpus, CorpusConfig
from worldmodel.data.corpus_check import FileFacts, advise, check_files, summarise
from worldmodel.data.corpus_damage import write_table
from worldmodel.data.corpus_files import CorpusError, SourceConfig
from worldmodel.training.run import config_hash


@dataclass
class Config:
    """Settings of a check."""

    #: Folder, list (.txt, .csv), tar shard, or a pattern of these; or name several under sources.
    data: str = ""
    #: Several sources by name, each with a path.
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    #: Decode every file in full, instead of three frames of it, and record which libraries read it exactly.
    verify: bool = False
    #: Random frames of each file that are read again after a full decode, and compared with it.
    accesses: int = 48
    #: Processes; 0 checks in this process.
    workers: int = 2
    #: Directory of the tables; empty: runs/index/<hash of the sources>.
    out: str = ""
    #: Above this share of damaged files the command fails.
    max_damaged: float = 0.05


@dataclass(frozen=True)
class Checked:
    """What was found, and where the tables are."""

    facts: list[FileFacts]
    path: Path

    @property
    def damaged(self) -> list[FileFacts]:
        """The files that something is wrong with."""
        return [fact for fact in self.facts if fact.reason]


def run(config: Config) -> Checked:
    """Check all files, write the tables, and fail if too many files are damaged."""
    # Files that a list names and that are missing are to be listed here, not to be an error before the start.
    corpus = Corpus(CorpusConfig(data=config.data, sources=config.sources, max_damaged=1.0))
    key = config_hash(
        {"data": config.data, "sources": {name: asdict(s) for name, s in config.sources.items()}}
    )
    out = Path(config.out).expanduser() if config.out else Path("runs") / "index" / key
    paths = corpus.paths()
    checks = check_files(paths, config.verify, config.accesses, config.workers)
    facts = list(tqdm(checks, total=len(paths), desc="index", unit="file", disable=None, leave=False))
    checked = Checked(facts, out)
    write_table(out / "index.csv", asdict(facts[0]), (asdict(fact).values() for fact in facts))
    write_table(out / "damaged.csv", ("path", "reason"), ((f.path, f.reason) for f in checked.damaged))
    readable = [
        (abspath(f.path), label) for f, label in zip(facts, corpus.label_texts(), strict=True) if not f.reason
    ]
    write_table(out / "readable.csv", ("path", "label"), readable)
    share = len(checked.damaged) / len(facts)
    if share > config.max_damaged:
        print(outcome(checked))
        raise CorpusError(
            f"{share:.0%} of the files are damaged, more than max_damaged={config.max_damaged:g} allows; "
            f"{out / 'damaged.csv'} lists them, and data={out / 'readable.csv'} is the corpus without them"
        )
    return checked


def outcome(checked: Checked) -> str:
    """What the command says at its end."""
    lines = [f"{name:<14}{value}" for name, value in summarise(checked.facts)]
    lines += [f"  {fact.path}: {fact.reason}" for fact in checked.damaged[:10]]
    if len(checked.damaged) > 10:
        lines.append(f"  and {len(checked.damaged) - 10} more in {checked.path / 'damaged.csv'}")
    lines += [f"advice: {line}" for line in advise(checked.facts)]
    return "\n".join([*lines, f"tables in {checked.path}"])


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("index"))
