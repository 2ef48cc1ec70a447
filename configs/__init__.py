"""Settings of the jobs: `<job>.yaml`, and one folder per group of things that can be swapped.

`worldmodel <job> --help` lists the keys, the groups and their options. A `<job>.yaml` names the job's schema
first (`<job>_schema`, the dataclass `Config` in `experiments/<job>.py`), then its groups, and `_self_` last.
"""
