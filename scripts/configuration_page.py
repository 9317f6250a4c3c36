# SPDX-License-Identifier: BSD-3-Clause
"""Write docs/configuration.md from the dataclasses: names, types, defaults and descriptions, from one source.

python scripts/configuration_page.py
"""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import yaml

from ptychopinn import config
from ptychopinn.config.field_docs import field_choices, field_docs

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
SECTIONS: dict[str, Any] = {
    "data": config.DataConfig,
    "model": config.ModelConfig,
    "training": config.TrainingConfig,
    "inference": config.InferenceConfig,
    "execution": config.ExecutionConfig,
    "refine": config.RefineConfig,
    "live": config.LiveConfig,
}
_HEAD = """\
# Configuration

This page is made from the code by `python scripts/configuration_page.py`.

Every setting has one name: in Python (`Config.from_dict({"training": {"epochs": 10}})`), in YAML
(`training: {epochs: 10}`) and on the command line (`--training.epochs 10`). An option overrides what a file states,
and a file the defaults:

```sh
ptychopinn train scan.npz --out run --config lab.yaml --training.epochs 10
```
```python
config = Config.load("lab.yaml", overrides={"training.epochs": 10})
```

Every run keeps its resolved settings: in `config.yaml` in its folder, which `--config` and `Config.load` read again, in
its checkpoints and in its bundle. A value of another type or out of range, or a name that does not exist, is an error
that names the field; where a field takes some words only, they are its type in the tables, and `--help-all` lists them.
`execution.*` are options of `train`, `reconstruct` and `refine`; the latter two use `accelerator`, `devices`, `threads`
and `workers`. `refine` and `live` belong to the commands of their names alone and are not part of a run's file.
"""


def page() -> str:
    """The page's text."""
    return _HEAD + "".join(_section(name, section) for name, section in SECTIONS.items())


def _section(name: str, section: Any) -> str:
    text = inspect.getdoc(section) or ""
    docs, choices = field_docs(section), field_choices(section)
    lines = [f"\n## {name}\n{text.splitlines()[0]}\n", "| field | type | default | description |", "|---|---|---|---|"]
    defaults = dataclasses.asdict(section())
    for entry in dataclasses.fields(section):
        kind = str(entry.type).replace("|", "or").replace("None", "none").replace("dict[str, Any]", "mapping")
        kind = kind.replace('Literal["auto"]', "auto")
        if entry.name in choices:
            kind = ", ".join(f"`{choice}`" for choice in choices[entry.name])
        default = yaml.safe_dump(defaults[entry.name], default_flow_style=True).removesuffix("...\n").strip()
        lines.append(f"| `{name}.{entry.name}` | {kind} | `{default}` | {docs[entry.name].replace('|', 'or')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
