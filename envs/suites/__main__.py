"""Make the files of task suites that come with the toolkit: `python -m envs.suites [NAME ...]`."""

from __future__ import annotations

import sys

from envs.suites import FOLDER, RECIPES, make_again


def main(names: list[str]) -> int:
    """Make each suite, verify it, and write its file, unless there is one: a frozen suite is never replaced."""
    try:
        for name in names or list(RECIPES):
            suite = make_again(name)
            suite.verify()
            file = FOLDER / f"{name}.json"
            if file.exists():
                said = (
                    "the file has the same" if f'"{suite.hash}"' in file.read_text() else "THE FILE DIFFERS"
                )
            else:
                suite.save(file)
                said = f"wrote {file.name}"
            print(f"{name}: {len(suite)} tasks, sha256 {suite.hash[:16]}; {said}", flush=True)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
